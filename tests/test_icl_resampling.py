"""Intervals and tests over groups, held against enumeration, normal theory and the bootstrap of one fold."""

from itertools import product

import numpy as np
import pytest

from viewfold.keyed import generator
from viewfold.retrieval import mean_interval
from viewfold.retrieval.icl import GroupResampling


def test_every_fold_and_every_class_weighs_the_same() -> None:
    folds, labels = ["a"] * 4 + ["b"] * 2, ["x", "x", "x", "y", "x", "y"]
    values = np.array([1.0, 1, 1, 0, 0, 0])
    draws = GroupResampling([str(n) for n in range(6)], folds, num_resamples=100)
    assert draws.interval(values).value == pytest.approx((3 / 4 + 0) / 2)
    assert draws.interval(values, labels).value == pytest.approx(((1 + 0) / 2 + 0) / 2)


def test_the_interval_of_one_fold_is_that_of_the_mean() -> None:
    rng = generator("interval", 0)
    groups = [str(n) for n in rng.integers(0, 60, 400)]
    values = rng.normal(size=400)
    found, plain = GroupResampling(groups, ["a"] * 400).interval(values), mean_interval(values, groups)
    assert found.value == pytest.approx(plain.value)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=0.02)


def test_the_interval_of_independent_values_is_that_of_the_normal_distribution() -> None:
    values = generator("normal", 1).normal(size=600)
    found = GroupResampling([str(n) for n in range(600)], ["a"] * 300 + ["b"] * 300).interval(values)
    half = 1.96 * values.std() / np.sqrt(600)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.08)


def test_a_group_that_is_in_both_folds_comes_and_goes_as_a_whole() -> None:
    values = np.array([1.0, 1.0, 0.0, 0.0])
    together = GroupResampling(["g", "h", "g", "h"], ["a", "a", "b", "b"]).interval(values)
    assert (together.low, together.high) == (0.5, 0.5)  # fold a is all ones and b all zeros, whoever is drawn
    assert GroupResampling(["g"] * 4, ["a"] * 4).interval(values).low == 0.5


def test_the_p_value_is_near_that_of_every_turning_of_signs() -> None:
    groups, values = ["a", "a", "b", "c", "d", "e", "f"], np.array([0.5, 0.7, 0.9, -0.1, 0.4, 0.3, 0.8])
    sums = np.array([1.2, 0.9, -0.1, 0.4, 0.3, 0.8])
    exact = np.mean([abs(np.dot(signs, sums)) >= sums.sum() - 1e-9 for signs in product([-1, 1], repeat=6)])
    found = GroupResampling(groups, ["one"] * 7, num_flips=20_000).p_value(values)
    assert found == pytest.approx(float(exact), abs=0.005)
    assert GroupResampling(groups, ["one"] * 7).p_value(np.zeros(7)) == 1
