"""Intervals draw whole groups, and every answer is plain data."""

import json
import math

import numpy as np
import pytest
import torch

from viewfold.errors import InvalidInput
from viewfold.ssl.evaluate import Measure, Split, bootstrap, hit_chance, mrr_chance, rank_measure


def test_interval_of_a_mean_is_two_standard_errors_wide() -> None:
    values = np.random.default_rng(0).normal(size=900)
    value, low, high = bootstrap(lambda w: float(np.average(values, weights=w)), np.full(900, -1), num_draws=4000)
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
    assert grouped == pytest.approx(once)


def test_the_same_seed_gives_the_same_interval_and_another_does_not() -> None:
    values = np.random.default_rng(0).normal(size=50)
    intervals = [bootstrap(lambda w: float(np.average(values, weights=w)), np.arange(50), seed=s) for s in (1, 1, 2)]
    assert intervals[0] == intervals[1] != intervals[2]


def test_a_single_group_has_no_interval() -> None:
    assert bootstrap(lambda w: float(w.mean()), np.zeros(10, dtype=np.int64)) == (1.0, None, None)


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
