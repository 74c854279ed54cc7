"""Votes of demonstrations, held against the golden pool and closed forms."""

from pathlib import Path

import numpy as np
import pytest
from pools import on_circle, pool

from viewfold.errors import InvalidInput
from viewfold.retrieval import (
    DemoItem,
    FilterConfig,
    IndexBundle,
    Query,
    SelectConfig,
    build_bundle,
    majority,
    mean_interval,
    remove_images,
    vote_outcomes,
    vote_report,
)

EAST = on_circle([0])[0]


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> IndexBundle:
    features = pool(on_circle([2, 5, 9, 14, 20, 27, 35, 44]), label=list("00010112"), group=list("00123456"))
    return build_bundle(features, tmp_path_factory.mktemp("golden") / "bundle")


def items(*votes: tuple[str, float]) -> list[DemoItem]:
    return [DemoItem(str(rank), label, None, score, rank, "") for rank, (label, score) in enumerate(votes, start=1)]


def test_the_label_with_most_votes_wins_then_the_summed_score_then_the_lower_label() -> None:
    assert majority(items(("b", 0.1), ("a", 0.9), ("b", 0.1))) == "b"
    assert majority(items(("a", 0.2), ("b", 0.9), ("a", 0.3), ("b", 0.1))) == "b"
    assert majority(items(("b", 0.3), ("a", 0.5), ("b", 0.5), ("a", 0.3))) == "a"
    assert majority(items(("b", 0.1), ("a", 0.3), ("b", 0.2), ("a", 0.0))) == "a"  # 0.1 + 0.2 is 0.3 but for a last bit
    assert majority([]) is None


def test_seven_votes_are_four_three_and_none(golden: IndexBundle) -> None:
    queries = [Query("q", EAST)] * 3
    outcomes = vote_outcomes(golden, queries, ["0", "1", "2"], SelectConfig(k=7))
    np.testing.assert_allclose(outcomes.precision * 7, [4, 3, 0])
    assert outcomes.correct.tolist() == [1, 0, 0]
    assert outcomes.covered.tolist() == [1, 1, 0]


def test_precision_at_five(golden: IndexBundle) -> None:
    outcomes = vote_outcomes(golden, [Query("q", EAST)] * 2, ["0", "1"], SelectConfig(k=5))
    assert outcomes.precision.tolist() == [0.8, 0.2]


@pytest.mark.parametrize(("k", "covered"), [(3, 0.0), (4, 1.0)])
def test_class_one_is_first_covered_at_four(golden: IndexBundle, k: int, covered: float) -> None:
    assert vote_outcomes(golden, [Query("q", EAST)], ["1"], SelectConfig(k=k)).covered.tolist() == [covered]


def test_missing_demonstrations_count_against_precision(golden: IndexBundle) -> None:
    outcomes = vote_outcomes(golden, [Query("q", EAST)], ["0"], SelectConfig(k=16))
    assert outcomes.precision.tolist() == [4 / 16]


def test_chance_is_the_share_of_the_label_among_what_the_guards_leave(golden: IndexBundle) -> None:
    queries = [Query("q", EAST), Query("q", EAST, group="0"), Query("q", EAST, group="6"), Query("0007", EAST)]
    outcomes = vote_outcomes(golden, queries, ["0", "0", "2", "absent"], SelectConfig(k=1))
    assert outcomes.chance.tolist() == [4 / 8, 2 / 6, 0.0, 0.0]
    assert outcomes.absent.tolist() == [False, False, True, True]


def test_chance_counts_neither_what_the_filters_leave_out_nor_what_was_removed(tmp_path: Path) -> None:
    features = pool(on_circle([2, 5, 9, 14]), label=list("0012"), domain=list("abaa"), group=list("gabc"))
    remove_images(build_bundle(features, tmp_path / "bundle").folder, ["0003"])
    queries = [Query("q", EAST), Query("q", EAST, group="g"), Query("q", EAST), Query("q", EAST)]
    config = SelectConfig(k=1, filters=FilterConfig(domains=("a",)))
    outcomes = vote_outcomes(IndexBundle.open(tmp_path / "bundle"), queries, list("0012"), config)
    assert outcomes.chance.tolist() == [1 / 2, 0, 1 / 2, 0]
    assert outcomes.absent.tolist() == [False, True, False, True]


def test_random_selection_has_the_precision_of_chance(golden: IndexBundle) -> None:
    """4000 draws of 3: the standard deviation of their mean precision is below 0.005."""
    queries = [Query(f"q{number}", EAST, group="0" if number % 2 else None) for number in range(4000)]
    outcomes = vote_outcomes(golden, queries, ["0"] * 4000, SelectConfig(strategy="random", k=3))
    assert outcomes.precision.mean() == pytest.approx(float(outcomes.chance.mean()), abs=0.02)
    assert outcomes.chance.mean() == pytest.approx((4 / 8 + 2 / 6) / 2)


def test_the_report_holds_means_balanced_by_class_and_the_absent_classes(golden: IndexBundle) -> None:
    labels = ["0", "0", "0", "1", "absent"]
    outcomes = vote_outcomes(golden, [Query(f"q{i}", EAST) for i in range(5)], labels, SelectConfig(k=7))
    report = vote_report(outcomes)
    assert report.vote_accuracy.value == pytest.approx(3 / 5)
    assert report.balanced_vote_accuracy == pytest.approx((1 + 0 + 0) / 3)
    assert report.coverage.value == pytest.approx(4 / 5)
    assert (report.k, report.num_queries, report.num_absent) == (7, 5, 1)
    assert report.to_dict()["precision"].keys() == {"value", "low", "high"}
    assert report == vote_report(outcomes)


def test_the_interval_of_independent_queries_is_that_of_the_normal_approximation() -> None:
    values = (np.random.default_rng(0).random(2000) < 0.3).astype(np.float64)
    interval = mean_interval(values, [str(number) for number in range(2000)])
    half = 1.96 * float(np.sqrt(values.mean() * (1 - values.mean()) / 2000))
    assert interval.value == values.mean()
    assert interval.low == pytest.approx(interval.value - half, abs=0.002)
    assert interval.high == pytest.approx(interval.value + half, abs=0.002)


def test_copies_of_a_query_in_one_group_do_not_narrow_the_interval() -> None:
    values = (np.random.default_rng(0).random(100) < 0.5).astype(np.float64)
    names = [str(number) for number in range(100)]
    once = mean_interval(values, names)
    assert mean_interval(np.repeat(values, 20), list(np.repeat(names, 20))) == once
    assert mean_interval(np.repeat(values, 20), [str(n) for n in range(2000)]).low > once.low + 0.05


def test_one_group_has_no_spread() -> None:
    interval = mean_interval(np.array([0.0, 1.0, 1.0]), ["g"] * 3)
    assert (interval.low, interval.high) == (interval.value, interval.value)


def test_a_vote_without_queries_or_demonstrations_is_refused(golden: IndexBundle) -> None:
    with pytest.raises(InvalidInput, match="0 queries with k=7"):
        vote_outcomes(golden, [], [], SelectConfig())
    with pytest.raises(InvalidInput, match="1 queries with k=0"):
        vote_outcomes(golden, [Query("q", EAST)], ["0"], SelectConfig(k=0))
