"""PSI, KS and what chance makes of them, against hand-worked values, SciPy and draws of one distribution."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from viewfold.retrieval import Drift
from viewfold.retrieval.drift import (
    BIN_SHARE,
    chance_distance,
    chance_stability,
    compared,
    empty_like,
    joined_bins,
    ks_distance,
    median_of,
    population_stability,
)
from viewfold.retrieval.index.bundle import ScoreHistogram

BINS = 200
Counts = NDArray[np.int64]


def counted(cosines: NDArray[np.float64]) -> Counts:
    found, _ = np.histogram(cosines.clip(-1, 1), bins=BINS, range=(-1, 1))
    return found


def drift(
    asked: Counts, own: Counts, domains: dict[str, int] | None = None, mix: dict[str, int] | None = None
) -> Drift:
    reference = ScoreHistogram(low=-1.0, high=1.0, counts=own.tolist())
    return compared(
        "pair",
        since=None,
        left_out=0,
        cosines=empty_like(reference, asked.tolist()),
        reference=reference,
        domains=domains or {},
        reference_domains=mix or {},
    )


def drawn(seed: int, count: int, mean: float = 0.7) -> Counts:
    return counted(np.random.default_rng(seed).normal(mean, 0.1, count))


def test_stability_of_two_bins_by_hand() -> None:
    assert population_stability([2, 2], [1, 3]) == pytest.approx(0.25 * math.log(3))
    assert population_stability([1, 3], [2, 2]) == pytest.approx(0.25 * math.log(3))


def test_equal_shares_have_no_stability_index_and_no_distance() -> None:
    assert population_stability([3, 5, 2], [30, 50, 20]) == pytest.approx(0, abs=1e-12)
    assert ks_distance([3, 5, 2], [30, 50, 20]) == 0


def test_an_empty_bin_counts_as_half_an_image() -> None:
    by_hand = (1 - 0.5) * math.log(2) + (0.05 - 0.5) * math.log(0.1)
    assert population_stability([10, 0], [5, 5]) == pytest.approx(by_hand)


def test_distance_is_scipys_for_values_in_the_middle_of_the_bins() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        one, other = rng.integers(0, 6, 30), rng.integers(0, 3, 30)
        values = [np.repeat(np.arange(30), counts) for counts in (one, other)]
        assert ks_distance(one, other) == pytest.approx(stats.ks_2samp(*values, method="asymp").statistic)
    assert ks_distance([4, 0], [0, 9]) == 1


@pytest.mark.parametrize("bins", [2, 3, 5, 10, 50])
def test_chance_of_stability_is_the_quantile_of_chi_squared(bins: int) -> None:
    counts, reference = [40] * bins, [30] * bins
    scale = 1 / (40 * bins) + 1 / (30 * bins)
    assert chance_stability(counts, reference) == pytest.approx(scale * stats.chi2.ppf(0.95, bins - 1), rel=0.03)
    assert chance_stability([7], [9]) == 0


def test_draws_of_one_distribution_pass_what_chance_allows_once_in_twenty_times() -> None:
    found = [drift(drawn(seed, 500), drawn(5000 + seed, 200)) for seed in range(400)]
    beyond = (
        [(one.psi or 0) > (one.psi_chance or 0) for one in found],
        [(one.ks or 0) > (one.ks_chance or 0) for one in found],
    )
    # By the binomial distribution 400 draws of 1 in 20 lie in 8..34; binned values keep KS below its bound.
    assert 8 <= sum(beyond[0]) <= 34
    assert sum(beyond[1]) <= 34
    assert chance_distance(500, 200) == pytest.approx(1.358 * math.sqrt(1 / 500 + 1 / 200), rel=1e-3)


def test_joined_bins_hold_their_share_and_leave_what_is_outside_apart() -> None:
    for seed in range(30):
        own = drawn(seed, 200, mean=0.2 + seed / 50)
        starts = joined_bins(own)
        counts = np.add.reduceat(own, starts)
        held = np.flatnonzero(own)
        assert starts[0] == 0
        assert np.all(np.diff(starts) > 0)
        assert counts.sum() == 200
        assert counts[0] == 0
        assert starts[1] == held[0]
        inner = counts[counts > 0]
        assert np.all(inner >= BIN_SHARE * 200)
        assert len(counts) - len(inner) == 2 - (held[-1] == BINS - 1)


def test_queries_far_from_an_index_whose_images_all_lie_in_one_bin_are_seen() -> None:
    own = counted(np.full(200, 0.999))
    assert drift(counted(np.full(500, 0.995)), own).psi == pytest.approx(0, abs=1e-2)
    far = drift(counted(np.r_[np.full(400, 0.999), np.full(100, 0.3)]), own)
    assert far.psi is not None
    assert far.psi > 0.25
    assert far.ks == pytest.approx(0.2)


def test_stability_grows_with_how_far_queries_move() -> None:
    own = drawn(1, 200)
    found = [drift(drawn(2, 500, mean), own).psi or 0 for mean in (0.7, 0.65, 0.6, 0.5)]
    assert found == sorted(found)
    assert found[0] < 0.25 < found[-1]


def test_medians_are_those_of_the_values_to_a_bin() -> None:
    values = np.random.default_rng(0).normal(0.6, 0.1, 301)
    found = drift(counted(values), counted(values - 0.2))
    assert found.median == pytest.approx(np.median(values), abs=0.011)
    assert found.reference_median == pytest.approx(np.median(values) - 0.2, abs=0.011)


def test_rare_domains_are_counted_together() -> None:
    mix = {"a": 600, "b": 391, **{f"rare-{number}": 3 for number in range(3)}}
    found = drift(drawn(0, 100), drawn(1, 200), {"a": 60, "b": 39, "rare-1": 1}, mix)
    assert found.domain_psi == pytest.approx(population_stability([60, 39, 1], [600, 391, 9]), abs=1e-6)
    assert found.domain_psi_chance == pytest.approx(chance_stability([60, 39, 1], [600, 391, 9]), abs=1e-6)


@pytest.mark.parametrize("mix", [{}, {"": 50}, {"only": 50}])
def test_an_index_without_two_domains_has_no_mix(mix: dict[str, int]) -> None:
    found = drift(drawn(0, 100), drawn(1, 200), dict.fromkeys(mix, 100), mix)
    assert (found.domain_psi, found.domain_psi_chance) == (None, None)


def test_nothing_is_compared_without_queries_or_without_a_reference() -> None:
    none = np.zeros(BINS, dtype=np.int64)
    for asked, own in ((none, drawn(0, 200)), (drawn(0, 200), none)):
        found = drift(asked, own, mix={"a": 1, "b": 1})
        assert (found.psi, found.ks, found.domain_psi) == (None, None, None)
    assert median_of(ScoreHistogram(low=-1, high=1, counts=none.tolist())) is None
