"""Balanced batches: what each holds, that nothing comes twice in a pass, and that any step can be asked for alone."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from math import gcd

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from viewfold.errors import InvalidInput
from viewfold.pipeline.order.balanced import Balanced
from viewfold.pipeline.order.dealing import deal
from viewfold.pipeline.order.visits import VISITS

Numbers = NDArray[np.int64]
FAR = 10**6

quick = settings(max_examples=40, deadline=None)


def table(sizes: Sequence[Sequence[int]]) -> tuple[Numbers, Numbers]:
    """Labels and domains of a data set with `sizes[label][domain]` samples, mixed."""
    cells = [(c, d) for c, row in enumerate(sizes) for d, size in enumerate(row) for _ in range(size)]
    label, domain = np.array(cells, dtype=np.int64)[np.random.default_rng(0).permutation(len(cells))].T
    return label, domain


def balanced(
    label: Numbers, domain: Numbers, group: Numbers | None = None, *, classes: int, images: int, seed: int = 0
) -> Balanced:
    group = np.full_like(label, -1) if group is None else group
    return Balanced(
        label=label,
        domain=domain,
        group=group,
        identity="data",
        seed=seed,
        classes_per_batch=classes,
        images_per_class=images,
        domain_names=("paper", "glass", "wool", "wood", "stone"),
    )


@st.composite
def orders(draw: st.DrawFn) -> Balanced:
    """Any data set of up to 7 classes and 5 domains, some cells empty, some samples without label, domain or group."""
    num_classes, num_domains = draw(st.integers(1, 7)), draw(st.integers(1, 5))
    sizes = st.integers(draw(st.integers(0, 1)), draw(st.sampled_from([1, 4, 12])))
    row = st.lists(sizes, min_size=num_domains, max_size=num_domains)
    label, domain = table([*draw(st.lists(row, min_size=num_classes, max_size=num_classes)), [1] * num_domains])
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    if draw(st.booleans()):
        label, domain = (np.where(rng.random(len(x)) < 0.1, -1, x) for x in (label, domain))
    group = rng.integers(-1, draw(st.integers(1, len(label))), len(label))
    try:
        return balanced(label, domain, group, classes=draw(st.integers(1, 8)), images=draw(st.integers(1, 9)))
    except InvalidInput:
        reject()


def cells_of(order: Balanced) -> tuple[Numbers, Numbers, Counter[tuple[int, int]]]:
    """Label and domain as they count, domain 0 where nobody has one, and the number of samples of each cell."""
    label, domain = order.label, order.domain
    if (domain[label >= 0] < 0).all():
        domain = np.zeros_like(domain)
    label = np.where(domain >= 0, label, -1)
    used = label >= 0
    return label, domain, Counter(zip(label[used].tolist(), domain[used].tolist(), strict=True))


def batch(order: Balanced, step: int) -> list[tuple[int, int]]:
    """Rows and epochs of a whole batch."""
    rows, epochs, _ = order.places(step, 0, order.global_batch)
    return list(zip(rows.tolist(), epochs.tolist(), strict=True))


@given(orders(), st.integers(0, 2 * FAR))
@quick
def test_every_batch_has_its_classes_their_images_and_every_domain(order: Balanced, start: int) -> None:
    label, domain, cells = cells_of(order)
    domains, width = {d for _, d in cells}, Counter(c for c, _ in cells)
    for step in range(start, start + 5):
        rows = order.places(step, 0, order.global_batch).rows
        classes = Counter(label[rows].tolist())
        assert (len(classes), set(classes.values())) == (order.classes_per_batch, {order.images_per_class})
        assert min(classes) >= 0
        shown = Counter(zip(label[rows].tolist(), domain[rows].tolist(), strict=True))
        for label_, domain_ in cells:
            if label_ in classes:
                fewest = order.images_per_class // width[label_]
                assert fewest <= shown[label_, domain_] <= fewest + (order.images_per_class % width[label_] > 0)
        by_domain = Counter(domain[rows].tolist())
        assert set(by_domain) == domains
        if set(width.values()) == {len(domains)}:
            assert max(by_domain.values()) - min(by_domain.values()) <= 1


@given(orders())
@quick
def test_a_pass_over_a_cell_has_every_sample_once_and_passes_follow_each_other(order: Balanced) -> None:
    label, domain, cells = cells_of(order)
    num_classes = len({c for c, _ in cells})
    drawn: dict[tuple[int, int], list[tuple[int, int]]] = {cell: [] for cell in cells}
    for step in range(VISITS * num_classes // gcd(VISITS * num_classes, order.classes_per_batch)):
        for row, epoch in batch(order, step):
            drawn[int(label[row]), int(domain[row])].append((row, epoch))
    for cell, pairs in drawn.items():
        assert len(set(pairs)) == len(pairs)
        whole, rest = divmod(len(pairs), cells[cell])  # every class had a multiple of VISITS visits
        passes = Counter(epoch for _, epoch in pairs)
        assert passes == Counter({**dict.fromkeys(range(whole), cells[cell]), **({whole: rest} if rest else {})})


@given(orders(), st.integers(0, 2 * FAR))
@quick
def test_a_row_comes_twice_in_a_batch_only_where_its_cell_is_short_and_is_then_marked(
    order: Balanced, start: int
) -> None:
    label, domain, cells = cells_of(order)
    width = Counter(c for c, _ in cells)
    places = {cell: -(-order.images_per_class // width[cell[0]]) for cell in cells}
    assert order.short_cells == sum(cells[cell] < places[cell] for cell in cells)
    assert order.empty_cells == len(width) * len({d for _, d in cells}) - len(cells)
    for step in range(start, start + 5):
        rows, _, repeated = order.places(step, 0, order.global_batch)
        again = [row in rows[:place] for place, row in enumerate(rows)]
        assert repeated.tolist() == again
        for row in rows[repeated]:
            cell = int(label[row]), int(domain[row])
            assert cells[cell] < places[cell]


@given(orders(), st.integers(0, 2 * FAR), st.data())
@quick
def test_ranks_together_and_steps_in_any_order_see_the_same_batches(
    order: Balanced, step: int, data: st.DataObject
) -> None:
    whole = batch(order, step)
    for before in data.draw(st.lists(st.integers(max(0, step - 50), step + 50), max_size=3)):
        batch(order, before)
    fresh = balanced(
        order.label, order.domain, order.group, classes=order.classes_per_batch, images=order.images_per_class
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=3)))
    parts = [fresh.places(step, first, last) for first, last in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    rows, epochs, _ = map(np.concatenate, zip(*parts, strict=True))
    assert list(zip(rows.tolist(), epochs.tolist(), strict=True)) == whole == batch(order, step)


@given(orders(), st.integers(0, 2 * FAR))
@quick
def test_every_place_is_found_by_its_row_and_epoch(order: Balanced, step: int) -> None:
    for place, (row, epoch) in enumerate(batch(order, step)):
        assert order.find(row, epoch) == (step, place)
    label, _, _ = cells_of(order)
    for row in np.flatnonzero(label < 0)[:3].tolist():
        assert order.find(row, 0) is None


@given(orders(), st.integers(0, 2 * FAR))
@quick
def test_the_rest_of_its_cell_and_then_of_its_class_stand_in_for_a_sample(order: Balanced, step: int) -> None:
    label, domain, cells = cells_of(order)
    row, epoch = batch(order, step)[-1]
    last, size = order.global_batch - 1, cells[int(label[row]), int(domain[row])]
    class_size = np.count_nonzero(label == label[row])
    rows = [order.stand_in(step, last, nth)[0] for nth in range(1, class_size + 1)]
    assert sorted([row, *rows[: size - 1]]) == np.flatnonzero((label == label[row]) & (domain == domain[row])).tolist()
    assert sorted(rows) == np.flatnonzero(label == label[row]).tolist()
    if size > 1:  # the next in its pass: it comes in the same epoch, at a place of its own
        assert order.find(*order.stand_in(step, last, 1)) not in (None, (step, last))
    assert order.stand_in(step, last, 1)[1] == epoch


@pytest.mark.parametrize(("num_classes", "classes"), [(7, 3), (12, 8), (5, 5), (6, 5), (11, 2)])
def test_classes_come_equally_often_deck_by_deck_and_not_in_one_order(num_classes: int, classes: int) -> None:
    order = balanced(*table([[3, 3]] * num_classes), classes=classes, images=2)
    sequence = [label for step in range(6 * num_classes) for label in order.label[order.places(step, 0, classes).rows]]
    decks = np.array(sequence).reshape(-1, num_classes)
    np.testing.assert_array_equal(np.sort(decks, axis=1), np.tile(np.arange(num_classes), (len(decks), 1)))
    if classes < num_classes:
        batches = np.array(sequence).reshape(-1, classes)
        assert len({tuple(sorted(each)) for each in batches.tolist()}) > num_classes // 2


@pytest.mark.parametrize(("images", "classes"), [(1, 5), (2, 4), (3, 4), (7, 2), (10, 2)])
def test_a_class_shows_its_domains_equally_often_however_few_images_it_has(images: int, classes: int) -> None:
    num_classes, num_domains = 6, 5
    order = balanced(*table([[4] * num_domains] * num_classes), classes=classes, images=images)
    rounds = num_domains // gcd(num_domains, images)
    rows = [row for step in range(rounds * num_classes // gcd(num_classes, classes)) for row, _ in batch(order, step)]
    shown = Counter(zip(order.label[rows].tolist(), order.domain[rows].tolist(), strict=True))
    assert (len(shown), len(set(shown.values()))) == (num_classes * num_domains, 1)


@pytest.mark.parametrize("images", [4, 8])
def test_a_group_with_an_image_in_every_domain_never_meets_itself(images: int) -> None:
    """The case of one drawing in several styles: 8 of them, so that 8 images of a class leave no choice but one."""
    label, domain, group = np.array([(c, d, 8 * c + g) for c in range(9) for d in range(4) for g in range(8)]).T
    order = balanced(label, domain, group, classes=4, images=images)
    for step in [*range(60), *range(FAR, FAR + 60)]:
        assert max(Counter(group[[row for row, _ in batch(order, step)]].tolist()).values()) == 1


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 30), st.integers(0, 999))
@quick
def test_no_group_is_dealt_twice_to_a_visit_if_none_has_more_samples_than_there_are_visits(
    num_domains: int, each: int, num_groups: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    windows = np.tile(np.repeat(np.arange(num_domains), each), (VISITS, 1))
    domains = np.repeat(np.arange(num_domains), VISITS * each)
    places = np.repeat(np.arange(max(num_groups, num_domains * each)), VISITS)  # each group up to VISITS times
    groups = rng.permutation(places)[: len(domains)]
    rows = np.arange(len(domains))
    dealt = deal(windows, rows, domains, groups, rng)
    np.testing.assert_array_equal(np.sort(dealt, axis=None), rows)
    np.testing.assert_array_equal(np.sort(domains[dealt], axis=1), windows)
    assert all(len(set(visit)) == num_domains * each for visit in groups[dealt].tolist())


def test_a_group_that_is_too_large_meets_itself_no_more_often_than_it_must() -> None:
    label, domain = table([[48, 48]])
    group = np.where(np.arange(96) < 72, 0, np.arange(96))  # three quarters of the images are of one patient
    order = balanced(label, domain, group, classes=1, images=6)
    met = [Counter(group[[row for row, _ in batch(order, step)]].tolist()) for step in range(VISITS)]
    assert sum(max(of.values()) for of in met) == 72
    assert all(number == 1 for of in met for name, number in of.items() if name)


def test_a_cell_with_just_enough_samples_never_gives_one_twice_to_a_batch() -> None:
    """A batch takes all samples but one: a pass with an order of its own would begin with what this batch has."""
    order = balanced(*table([[51]]), classes=1, images=50)
    assert order.short_cells == 0
    assert not any(order.places(step, 0, 50).repeated.any() for step in range(10 * VISITS))


def test_a_large_cell_is_gone_through_like_a_small_one() -> None:
    size, images = 16_000, 500
    order = balanced(np.zeros(size, np.int64), np.full(size, -1), classes=1, images=images)
    passes = [[row for step in range(32 * n, 32 * n + 32) for row, _ in batch(order, step)] for n in range(2)]
    for rows in passes:
        np.testing.assert_array_equal(np.sort(rows), np.arange(size))
    assert passes[0] != passes[1]
    assert order.find(passes[1][-1], 1) == (63, images - 1)


def test_seed_and_data_each_change_classes_and_samples() -> None:
    label, domain = table([[20, 20]] * 8)
    first = balanced(label, domain, classes=4, images=4)
    other = balanced(label, domain, classes=4, images=4, seed=1)
    data = dataclasses.replace(first, identity="other")
    batches = [batch(order, 0) for order in (first, other, data)]
    assert len({tuple(rows) for rows in batches}) == 3
    assert len({tuple(sorted({int(label[row]) for row, _ in rows})) for rows in batches}) > 1


@pytest.mark.parametrize(
    ("sizes", "classes", "images", "message"),
    [
        ([[5, 5]] * 3, 4, 2, r"classes_per_batch=4 is more than the 3 classes with samples; use at most that"),
        ([[5, 5]] * 3, 0, 2, r"at least one class and one image of it, got 0 classes x 2 images"),
        ([[5] * 5] * 4, 2, 2, r"a batch of 2 classes x 2 images has 4 places for 5 domains"),
        (
            [[5, 5, 0]] * 4 + [[5, 5, 5]] * 2,
            3,
            3,
            r"domain wool has samples of 2 of 6 classes, so a batch of 3 classes x 3 images could miss it; leave it "
            r"out, or use 5 classes x 3 images or more, that is classes_per_batch=5 and batch_size=15",
        ),
        (
            [[5, 5, 5]] * 3 + [[5, 0, 5]],
            2,
            2,
            r"domain paper has samples of 4 of 4 classes, .* 2 classes x 3 images or more",
        ),
    ],
)
def test_a_batch_that_cannot_be_is_refused_with_the_numbers(
    sizes: Sequence[Sequence[int]], classes: int, images: int, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        balanced(*table(sizes), classes=classes, images=images)


def test_what_the_refusal_advises_is_accepted() -> None:
    order = balanced(*table([[5, 5, 0]] * 4 + [[5, 5, 5]] * 2), classes=5, images=3)
    assert all(set(order.domain[order.places(step, 0, 15).rows]) == {0, 1, 2} for step in range(50))
    balanced(*table([[5, 5, 5]] * 3 + [[5, 0, 5]]), classes=2, images=3)


def test_labels_are_needed_and_domains_are_not() -> None:
    none = np.full(6, -1)
    with pytest.raises(InvalidInput, match="need labels and none of the 6 samples has one"):
        balanced(none, none, classes=1, images=1)
    order = balanced(np.array([0, 1, -1, 0, 1, 1]), none, classes=2, images=2)
    assert {row for step in range(3) for row, _ in batch(order, step)} == {0, 1, 3, 4, 5}
    some = np.array([-1, 3, 3, 3, 3, -1])
    order = balanced(np.array([0, 1, -1, 0, 1, 1]), some, classes=2, images=2)
    assert {row for step in range(3) for row, _ in batch(order, step)} == {1, 3, 4}
