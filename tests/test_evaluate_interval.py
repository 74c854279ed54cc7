"""Intervals draw whole groups, and every answer is plain data."""

import json
import math

import numpy as np
import pytest
import torch

from viewfold.errors import InvalidInput
from viewfold.ssl.evaluate import Interval, Measure, Split, bootstrap, difference, hit_chance, mrr_chance, rank_measure


def test_interval_of_a_mean_is_two_standard_errors_wide() -> None:
    values = np.random.default_rng(0).normal(size=900)
    value, low, high, _ = bootstrap(lambda w: float(np.average(values, weights=w)), np.full(900, -1), num_draws=4000)
    assert value == pytest.approx(values.mean())
    assert low is not None
    assert high is not None
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(900), rel=0.05)
    assert low < value < high


def test_rows_of_one_group_count_once() -> None:
    values = np.random.default_rng(0).normal(size=50)
    once = bootstrap(lambda w: float(np.average(values, weights=w)), np.arange(50))
    repeated = np.repeat(values, 20)
    grouped = bootstrap(lambda w: float(np.average(repeated, weights=w)), np.repeat(np.arange(50), 20))
    assert grouped[:3] == pytest.approx(once[:3])


def test_the_same_seed_gives_the_same_interval_and_another_does_not() -> None:
    values = np.random.default_rng(0).normal(size=50)
    intervals = [bootstrap(lambda w: float(np.average(values, weights=w)), np.arange(50), seed=s) for s in (1, 1, 2)]
    assert intervals[0] == intervals[1] != intervals[2]


def test_a_single_group_has_no_interval() -> None:
    assert bootstrap(lambda w: float(w.mean()), np.zeros(10, dtype=np.int64)) == (1.0, None, None, None)


def test_a_difference_of_two_on_the_same_rows_is_drawn_in_pairs() -> None:
    rng = np.random.default_rng(0)
    hard, groups = rng.normal(size=400), np.repeat(np.arange(100), 4)
    first, second = hard + rng.normal(scale=0.1, size=400) + 0.05, hard + rng.normal(scale=0.1, size=400)
    own, other, both = (
        bootstrap(lambda w, v=values: float(np.average(v, weights=w)), groups)  # type: ignore[misc]
        for values in (first, second, first - second)
    )
    paired = difference(own, other)
    assert paired[:3] == pytest.approx(both[:3])
    assert paired.low is not None
    assert paired.low > 0  # while the intervals of the two lie in each other
    assert own.low is not None
    assert own.low < other.value < own.value


def test_without_draws_a_difference_has_no_ends() -> None:
    assert difference(Interval(3.0, None, None), Interval(1.0, 0.5, 1.5, (0.5, 1.5))) == (2.0, None, None, None)


def test_draws_that_one_side_has_no_answer_to_count_for_neither() -> None:
    own, other = Interval(2.0, 1.0, 3.0, (1.0, math.nan, 3.0)), Interval(1.0, 0.0, 2.0, (1.0, 1.0, 1.0))
    assert difference(own, other)[1:3] == pytest.approx((0.05, 1.95))


def test_draws_stay_with_a_measure_and_out_of_its_plain_data() -> None:
    drawn = bootstrap(lambda w: float(np.average(np.arange(9), weights=w)), np.arange(9))
    measure = Measure(name="one", **drawn._asdict(), chance=0.0, n=9).of_part("invariant")
    assert measure.interval == drawn
    assert "draws" not in measure.to_dict()


def test_retrieval_chance_is_the_harmonic_number_over_the_views() -> None:
    assert mrr_chance(50) == pytest.approx(0.0899841068, abs=1e-10)
    assert mrr_chance(20) == pytest.approx(0.180, abs=5e-4)
    assert [hit_chance(k, 50) for k in (1, 2, 5, 10, 60)] == [0.02, 0.04, 0.10, 0.20, 1.0]


def test_rank_counts_the_dimensions_in_use() -> None:
    basis = torch.eye(12)[:5].repeat(8, 1)
    measure = rank_measure(basis)
    assert measure.value == pytest.approx(5, rel=1e-3)
    assert measure.detail == {"dim": 12, "largest_possible": 12}
    assert rank_measure(torch.ones(40, 12)).value == pytest.approx(measure.chance, rel=1e-3)


def test_a_measure_survives_json() -> None:
    measure = rank_measure(torch.eye(4))
    assert Measure(**json.loads(json.dumps(measure.to_dict()))) == measure


def test_features_of_a_diverged_encoder_are_refused() -> None:
    features = torch.zeros(6, 3)
    features[2, 1] = math.nan
    with pytest.raises(InvalidInput, match="features of 1 of 6 images are nan or infinite"):
        Split.of(features, torch.zeros(6))
