"""The order of training: every row once an epoch, equal batches that tile it, and nothing that depends on who asks."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from viewfold.errors import InvalidInput
from viewfold.pipeline.order.permute import Permutation
from viewfold.pipeline.order.plan import WINDOW_BLOCKS, Places, Plan, Rows


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    lanes, share = draw(st.integers(1, 8)), draw(st.integers(1, 6))
    return Plan(
        identity="data",
        num_samples=draw(st.integers(lanes * share, 600)),
        global_batch=lanes * share,
        seed=draw(st.integers(0, 2**32)),
        lanes=lanes,
        block=draw(st.integers(1, 40)),
        tail=draw(st.sampled_from(["carry", "drop", "pad"])),
    )


def batches(plan: Plan, first: int, last: int) -> Places:
    """The whole global batches of some steps, one after the other."""
    parts = [plan.places(step, 0, plan.global_batch) for step in range(first, last)]
    return Places(*map(np.concatenate, zip(*parts, strict=True)))


def epoch_of(plan: Plan, epoch: int) -> Places:
    """All that one epoch takes."""
    first = epoch * plan.num_samples // plan.global_batch
    last = -(-(epoch + 1) * plan.num_samples // plan.global_batch)
    if plan.steps_per_epoch is not None:
        first, last = epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch
    taken = batches(plan, first, last)
    return Places(*(array[taken.epochs == epoch] for array in taken))


@given(plans(), st.integers(0, 4))
@settings(max_examples=120, deadline=None)
def test_an_epoch_holds_every_row_once_or_says_which_it_left_or_repeated(plan: Plan, epoch: int) -> None:
    rows, _, repeated = epoch_of(plan, epoch)
    once = np.sort(rows[~repeated])
    assert len(np.unique(once)) == len(once)
    if plan.tail == "drop":
        assert len(once) == plan.num_samples // plan.global_batch * plan.global_batch
    else:
        np.testing.assert_array_equal(once, np.arange(plan.num_samples))
    padding = -plan.num_samples % plan.global_batch if plan.tail == "pad" else 0
    assert repeated.sum() == padding


@given(plans(), st.integers(0, 40), st.data())
@settings(max_examples=80, deadline=None)
def test_any_ranks_that_divide_the_batch_see_the_same_global_batch(plan: Plan, step: int, data: st.DataObject) -> None:
    size = plan.global_batch
    ranks = data.draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
    parts = [plan.places(step, rank * size // ranks, (rank + 1) * size // ranks) for rank in range(ranks)]
    assert {len(part.rows) for part in parts} == {size // ranks}
    for got, wanted in zip(zip(*parts, strict=True), plan.places(step, 0, size), strict=True):
        np.testing.assert_array_equal(np.concatenate(got), wanted)


@given(plans(), st.integers(0, 60), st.lists(st.integers(0, 60), max_size=3))
@settings(max_examples=60, deadline=None)
def test_a_step_is_the_same_whatever_was_asked_before(plan: Plan, step: int, before: list[int]) -> None:
    fresh = Plan(plan.identity, plan.num_samples, plan.global_batch, plan.seed, plan.lanes, plan.block, plan.tail)
    for other in before:
        plan.places(other, 0, plan.global_batch)
    for got, wanted in zip(plan.places(step, 0, 1), fresh.places(step, 0, 1), strict=True):
        np.testing.assert_array_equal(got, wanted)


@given(plans(), st.integers(0, 20), st.data())
@settings(max_examples=80, deadline=None)
def test_where_a_row_comes_is_found_without_looking_through_the_epoch(
    plan: Plan, step: int, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, plan.global_batch - 1))
    rows, epochs, repeated = plan.places(step, place, place + 1)
    found = plan.find(int(rows[0]), int(epochs[0]))
    assert found is not None
    assert found == (step, place) or repeated[0]
    again = plan.places(*found, found[1] + 1)
    assert (again.rows.tolist(), again.epochs.tolist()) == (rows.tolist(), epochs.tolist())


def test_a_dropped_row_is_nowhere() -> None:
    plan = Plan("data", 10, 4, lanes=2, tail="drop")
    missing = set(range(10)) - set(epoch_of(plan, 0).rows.tolist())
    assert len(missing) == 2
    assert {plan.find(row, 0) for row in missing} == {None}
    assert missing != set(range(10)) - set(epoch_of(plan, 1).rows.tolist())


@given(plans(), st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_every_batch_takes_as_much_of_each_lane_and_ranks_keep_to_their_lanes(plan: Plan, step: int) -> None:
    rows = plan.places(step, 0, plan.global_batch).rows
    lanes = rows * plan.lanes // plan.num_samples
    # Lanes are equal stretches but for a row or so at their borders, which move from epoch to epoch.
    for place, lane in enumerate(lanes.tolist()):
        stretch = plan.num_samples / plan.lanes
        assert abs(rows[place] - (place // plan.share + 0.5) * stretch) <= stretch / 2 + plan.lanes, (place, lane)


@given(plans(), st.integers(0, 30), st.data())
@settings(max_examples=60, deadline=None)
def test_a_stand_in_is_the_next_of_its_lane_and_epoch(plan: Plan, step: int, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, plan.global_batch - 1))
    rows, epochs, _ = plan.places(step, place, place + 1)
    row, epoch = plan.stand_in(step, place, 1)
    assert epoch == epochs[0]
    if (place + 1) % plan.share and plan.places(step, place + 1, place + 2).epochs[0] == epoch:
        assert row == plan.places(step, place + 1, place + 2).rows[0]
    if plan.num_samples // plan.lanes > 1:
        assert row != rows[0]


def test_data_seed_and_epoch_each_change_the_order() -> None:
    def order(identity: str, seed: int, epoch: int) -> Rows:
        return epoch_of(Plan(identity, 96, 8, seed, lanes=2, block=8), epoch).rows

    orders = [order(*who, epoch) for who in (("a", 0), ("b", 0), ("a", 1)) for epoch in (0, 1)]
    assert len({rows.tobytes() for rows in orders}) == 6


def test_what_a_lane_has_at_hand_comes_from_few_blocks_and_is_mixed() -> None:
    plan = Plan("data", 10_000, 8, lanes=1, block=8)
    window = batches(plan, 0, WINDOW_BLOCKS).rows
    near = Counter((window // 8).tolist())
    assert len(near) <= 2 * WINDOW_BLOCKS  # blocks are cut at a new place in every epoch: each lies in two of these
    assert len(set((window[:8] // 8).tolist())) > 4


def test_every_row_comes_early_and_late_over_the_epochs() -> None:
    """No row is tied to a part of the epoch: mean places over 400 epochs lie as near the middle as chance has them."""
    plan = Plan("data", 60, 4, lanes=2, block=4)
    places = np.array([np.argsort(epoch_of(plan, epoch).rows) for epoch in range(400)])
    error = 60 / np.sqrt(12 * 400)
    assert abs(places.mean(0) - 29.5).max() < 4.5 * error


def test_memory_does_not_grow_with_the_rows() -> None:
    plan = Plan("data", 10**9, 256, lanes=16)
    steps = [0, 1, 10**6, 4 * 10**6, 10**7]  # to beyond two epochs
    rows = np.concatenate([plan.places(step, 0, 256).rows for step in steps])
    assert len(np.unique(rows)) == len(rows)
    assert rows.max() > 9 * 10**8
    assert sum(window.nbytes for lane in plan._windows.values() for window in lane.values()) <= 2 * 16 * 4096 * 8


@pytest.mark.parametrize("size", [1, 2, 3, 17, 1000])
def test_a_permutation_is_one_and_is_undone(size: int) -> None:
    permutation = Permutation(size, 5)
    values = permutation.at(np.arange(size))
    np.testing.assert_array_equal(np.sort(values), np.arange(size))
    np.testing.assert_array_equal(permutation.place_of(values), np.arange(size))


@pytest.mark.slow
def test_every_permutation_is_as_likely() -> None:
    """Chi-square of the 24 orders of four over 4800 keys; 50 is beyond 99.9 %."""
    seen = Counter(tuple(Permutation(4, 7919 * key).at(np.arange(4)).tolist()) for key in range(4800))
    assert len(seen) == 24
    assert sum((number - 200) ** 2 / 200 for number in seen.values()) < 50


def test_a_plan_that_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidInput, match="3 samples do not fill one batch of 8"):
        Plan("data", 3, 8)
    with pytest.raises(InvalidInput, match="lanes that divide its batch"):
        Plan("data", 30, 8, lanes=3)
