"""What was chosen, measured: the golden pool, closed forms, and a plain twin of every vote."""

import math
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray
from pools import on_circle, pool

from viewfold.keyed import generator
from viewfold.retrieval import DemoItem, IndexBundle, Query, SelectConfig, build_bundle, majority, select
from viewfold.retrieval.icl import (
    Choices,
    Coded,
    Pool,
    auroc,
    demo_measures,
    domain_gap,
    expected_calibration_error,
    neighbour_leakage,
)

ANGLES = [2, 5, 9, 14, 20, 27, 35, 44]
EAST = on_circle([0])[0]


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> IndexBundle:
    features = pool(on_circle(ANGLES), label=list("00010112"), domain=list("aabbccab"), group=list("00123456"))
    return build_bundle(features, tmp_path_factory.mktemp("golden") / "bundle")


def measured(bundle: IndexBundle, labels: list[str], k: int) -> dict[str, NDArray[np.float64]]:
    """Of one query in the east for each of the true labels, among the first k of 8 choices."""
    config = SelectConfig(k=8)
    every = Choices.of(bundle, select(bundle, [Query("q", EAST)] * len(labels), config), 8)
    known = Pool(Coded.of(bundle.column("label")), Coded.of(bundle.column("domain")), on_circle(ANGLES))
    return demo_measures(every.first(k), known, labels, vote_tau=0.1)


def test_the_golden_pool_has_its_votes_precision_and_coverage(golden: IndexBundle) -> None:
    seven = measured(golden, ["0", "1", "2"], 7)
    np.testing.assert_allclose(seven["precision"] * 7, [4, 3, 0])
    assert seven["vote"].tolist() == seven["last_demo"].tolist() == seven["copied_vote"].tolist() == [1, 0, 0]
    assert measured(golden, ["0", "1"], 5)["precision"].tolist() == [0.8, 0.2]
    assert [measured(golden, ["1"], k)["coverage"].item() for k in (3, 4)] == [0, 1]


def test_entropy_concentration_and_redundancy_have_their_closed_forms(golden: IndexBundle) -> None:
    four = measured(golden, ["0"], 4)  # labels 0 0 0 1, domains a a b b
    assert four["label_entropy"].item() == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert four["domain_concentration"].item() == 0.5
    pairs = [math.cos(math.radians(b - a)) for i, a in enumerate(ANGLES[:4]) for b in ANGLES[i + 1 : 4]]
    assert four["redundancy"].item() == pytest.approx(sum(pairs) / 6, abs=1e-6)
    one = measured(golden, ["0"], 1)
    assert one["label_entropy"].item() == 0
    assert "redundancy" not in one


def test_a_missing_choice_is_no_demonstration_and_an_unknown_class_never_right(golden: IndexBundle) -> None:
    config = SelectConfig(k=12)
    known = Pool(Coded.of(golden.column("label")), Coded.of(golden.column("domain")), on_circle(ANGLES))
    short = Choices.of(golden, select(golden, [Query("q", EAST), Query("q", EAST)], config), 12)
    found = demo_measures(short, known, ["0", "nowhere"], vote_tau=0.1)
    assert found["fill_rate"].tolist() == [8 / 12] * 2
    assert found["precision"].tolist() == [4 / 12, 0]
    nothing = demo_measures(Choices(np.full((1, 3), -1), np.zeros((1, 3))), known, ["0"], vote_tau=0.1)
    assert {name: nothing[name].item() for name in ("vote", "soft_vote", "copied_vote", "last_demo", "coverage")} == {
        "vote": 0, "soft_vote": 0, "copied_vote": 0, "last_demo": 0, "coverage": 0,
    }  # fmt: skip


def test_votes_are_those_of_a_plain_count() -> None:
    rng = generator("votes", 0)
    labels, scores = rng.integers(0, 4, (300, 6)), np.sort(rng.integers(0, 4, (300, 6)) / 4, axis=1)[:, ::-1]
    every = Pool(Coded.of([str(n) for n in range(4)]), Coded.of(["a"] * 4), np.eye(4, dtype=np.float32))
    for truth in map(str, range(4)):
        found = demo_measures(Choices(labels, scores), every, [truth] * 300, vote_tau=0.2)
        for row in range(300):
            items = [DemoItem("", str(n), None, s, 0, "") for n, s in zip(labels[row], scores[row], strict=True)]
            counts = Counter(item.label for item in items)
            shown_last = next(item.label for item in items if counts[item.label] == max(counts.values()))
            weight = Counter[str]()
            for item in items:
                weight[item.label] += math.exp(item.score / 0.2)  # type: ignore[assignment]
            assert found["vote"][row] == (majority(items) == truth)
            assert found["copied_vote"][row] == (shown_last == truth)
            assert found["soft_vote"][row] == (max(sorted(weight), key=lambda name: round(weight[name], 6)) == truth)


def test_the_domain_gap_is_a_ratio_of_distances_between_centres() -> None:
    # Classes 90 degrees apart in both domains, domains 60 degrees apart: chords sqrt(2) and 1.
    vectors = on_circle([0, 90, 60, 150])
    label, domain = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
    assert domain_gap(vectors, label, domain) == pytest.approx(1 / math.sqrt(2), abs=1e-6)
    assert domain_gap(on_circle([0, 90, 0, 90]), label, domain) == pytest.approx(0, abs=1e-7)
    assert domain_gap(vectors, label, np.array([0, 0, 0, -1])) is None
    assert domain_gap(vectors, np.zeros(4, np.int64), domain) is None


def test_neighbour_leakage_is_all_where_domains_lie_apart_and_the_base_where_they_do_not_matter() -> None:
    domain = np.repeat([0, 1], 8)
    apart = on_circle([*range(8), *range(180, 188)])
    nobody = np.full(16, -1)
    leak = neighbour_leakage(apart, domain, nobody, k=4)
    assert leak is not None
    assert leak.share == 1
    assert leak.base == pytest.approx(7 / 15)
    mixed = neighbour_leakage(on_circle([*range(8), *range(8)]), domain, np.tile(np.arange(8), 2), k=14)
    assert mixed is not None  # all 14 others of other groups are neighbours, 7 of them of one's own domain
    assert mixed.share == mixed.base == 0.5


def test_calibration_error_and_auroc_have_their_closed_forms() -> None:
    happened = np.array([True, False, True, True])
    assert expected_calibration_error(np.array([0.5, 0.5, 1.0, 1.0]), happened) == 0
    assert expected_calibration_error(np.array([0.95, 0.95, 0.25, 0.25]), happened) == pytest.approx(
        (abs(1.9 - 1) + abs(0.5 - 2)) / 4
    )
    assert auroc(np.array([0.9, 0.1, 0.5, 0.5]), np.array([True, False, True, False])) == pytest.approx(3.5 / 4)
    assert auroc(np.array([0.9, 0.1]), np.array([True, True])) is None
