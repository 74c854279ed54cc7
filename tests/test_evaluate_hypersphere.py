"""Alignment and uniformity against brute force and closed forms."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from viewfold.errors import InvalidInput
from viewfold.ssl.evaluate import alignment, draw_pairs, uniformity
from viewfold.ssl.evaluate.hypersphere import uniformity_on_sphere


def on_sphere(rows: int, dim: int, seed: int = 0) -> NDArray[np.float64]:
    points = np.random.default_rng(seed).normal(size=(rows, dim))
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True))


def test_alignment_and_its_chance_equal_brute_force() -> None:
    sphere, group = on_sphere(24, 5), np.repeat([7, 2, 9, 4], 6)
    first, second = draw_pairs(group, pairs_per_object=5)
    first, second = first[:-2], second[:-2]  # groups of different sizes
    measure = alignment(3 * sphere, first, second, group)
    assert measure.value == pytest.approx(((sphere[first] - sphere[second]) ** 2).sum(1).mean(), rel=1e-5)
    other = [
        ((sphere[i] - sphere[j]) ** 2).sum() for i in first for j in second if group[i] != group[j]
    ]  # first views with second views of other objects
    assert measure.chance == pytest.approx(np.mean(other), rel=1e-5)
    assert (measure.name, measure.n, measure.detail["num_groups"]) == ("alignment", 18, 4)


def test_views_that_agree_are_at_zero_and_features_that_know_no_object_at_chance() -> None:
    group = np.repeat(np.arange(100), 4)
    first, second = draw_pairs(group, pairs_per_object=4)
    agreed = alignment(on_sphere(100, 8)[group], first, second, group)
    assert (agreed.value, agreed.low, agreed.high) == (0, 0, 0)
    assert agreed.chance == pytest.approx(2, abs=0.05)
    blind = alignment(on_sphere(400, 8), first, second, group)
    assert blind.low is not None
    assert blind.high is not None
    assert blind.low < blind.chance < blind.high
    with pytest.raises(InvalidInput, match="all of one group"):
        alignment(np.eye(3), [0, 1], [1, 2], [5, 5, 5])


def test_uniformity_equals_brute_force() -> None:
    sphere, group = on_sphere(12, 4), np.array([0, 0, 0, 1, 1, 1, 2, 2, -1, -1, -1, -1])
    pairs = [np.exp(-2 * ((sphere[i] - sphere[j]) ** 2).sum()) for i in range(12) for j in range(12) if i != j]
    measure = uniformity(5 * sphere, group)
    assert measure.value == pytest.approx(math.log(np.mean(pairs)), rel=1e-5)
    assert (measure.chance, measure.n) == (0, 12)


def test_the_uniform_law_has_its_closed_form() -> None:
    assert uniformity_on_sphere(1) == pytest.approx(math.log((1 + math.exp(-8)) / 2))
    assert uniformity_on_sphere(2) == pytest.approx(math.log(np.i0(4.0)) - 4)
    found = uniformity(on_sphere(1500, 3), np.full(1500, -1))
    # On the ordinary sphere x.y is uniform in -1..1 (Archimedes).
    assert found.detail["on_sphere"] == pytest.approx(math.log(math.sinh(4) / 4) - 4)
    assert found.value == pytest.approx(found.detail["on_sphere"], abs=0.01)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.detail["on_sphere"] < found.high
    assert (found.n, found.detail["of_rows"]) == (1024, 1500)


def test_many_dimensions_spread_to_minus_four_and_a_collapsed_encoder_is_at_chance() -> None:
    assert uniformity_on_sphere(100_000) == pytest.approx(-4, abs=1e-3)
    for same in (np.ones((30, 4)), np.zeros((30, 4))):
        collapsed = uniformity(same, np.arange(30) // 3)
        assert (collapsed.value, collapsed.low, collapsed.high) == pytest.approx((0, 0, 0), abs=1e-6)
    with pytest.raises(InvalidInput, match="got 1 image"):
        uniformity(np.ones((1, 4)), [0])


def test_the_interval_is_centred_though_groups_hold_many_close_views() -> None:
    centres = on_sphere(40, 8)
    group = np.repeat(np.arange(40), 10)
    measure = uniformity(centres[group] + 0.02 * on_sphere(400, 8, seed=1), group)
    assert measure.low is not None
    assert measure.high is not None
    # The middle of the draws would lie outside if pairs within a group counted by the square of its draws.
    assert measure.low < measure.value < measure.high
    assert abs((measure.low + measure.high) / 2 - measure.value) < (measure.high - measure.low) / 6
