"""Rotation R2: the published numbers, the closed-form floors, and a probe that finds what is there and only that."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from viewfold.errors import InvalidInput
from viewfold.ssl.evaluate import (
    PairProbeConfig,
    draw_pairs,
    official_r2,
    relation_r2,
    rotation_pairs,
    variance_weighted_r2,
)
from viewfold.ssl.geometry import quaternion_from_angles, relative_rotation

TARGET = np.array([[0.1, -0.2, 0.3, 0.9], [-0.3, 0.2, 0.1, 0.8], [0.2, 0.1, -0.4, 0.7], [0, -0.1, 0, 1]])
SMALL = PairProbeConfig(hidden=128, steps=300, batch_size=128)


def poses(num: int, seed: int = 0) -> Tensor:
    """Euler angles by 3DIEBench's law: each uniform within a quarter turn to both sides."""
    unit = torch.rand(num, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (unit - 0.5) * math.pi


def test_r2_has_the_published_values() -> None:
    # Exactly -13/55 for the second; the published digits were computed in float32.
    predicted = 0.5 * TARGET + 0.1
    assert official_r2(TARGET, predicted) == pytest.approx(0.7497700093, abs=1e-7)
    assert variance_weighted_r2(TARGET, predicted) == pytest.approx(-0.2363635795, abs=1e-7)
    means = np.broadcast_to(TARGET.mean(0), TARGET.shape)
    assert official_r2(TARGET, means) == pytest.approx(0.7976080864, abs=1e-7)
    assert variance_weighted_r2(TARGET, means) == pytest.approx(0, abs=1e-12)


def test_weights_are_repetitions() -> None:
    times = np.array([2, 0, 1, 3])
    for score in (official_r2, variance_weighted_r2):
        repeated = score(np.repeat(TARGET, times, 0), np.repeat(0.5 * TARGET, times, 0))
        assert score(TARGET, 0.5 * TARGET, times.astype(float)) == pytest.approx(repeated)


def test_floors_of_the_pose_law_have_their_closed_forms() -> None:
    num = 400_000
    relative = relative_rotation(poses(num, 1), poses(num, 2)).numpy()
    mean_w = 512 / math.pi**6
    assert relative.mean(0) == pytest.approx([0, 0, 0, mean_w], abs=3e-3)
    floor = 3 * mean_w**2 / (4 - mean_w**2)
    assert floor == pytest.approx(0.2289512089, abs=1e-10)
    assert official_r2(relative, np.broadcast_to(relative.mean(0), relative.shape)) == pytest.approx(floor, abs=3e-3)
    first, second = quaternion_from_angles(poses(num, 3)).numpy(), quaternion_from_angles(poses(num, 4)).numpy()
    assert 1 - ((first * second).sum(1) ** 2).mean() == pytest.approx(0.75 - 12 / math.pi**4, abs=3e-3)
    squares = [0.25 - 1 / math.pi**2] * 3 + [0.25 + 3 / math.pi**2]
    assert (first**2).mean(0) == pytest.approx(squares, abs=2e-3)


def test_hue_differences_have_floor_zero() -> None:
    hues = np.random.default_rng(0).random((200_000, 4))
    difference = hues[:, 2:] - hues[:, :2]
    assert difference.var(0) == pytest.approx([1 / 6, 1 / 6], rel=0.02)
    assert official_r2(difference, np.zeros_like(difference)) == pytest.approx(0, abs=1e-4)


def test_pairs_are_two_different_views_of_one_object_in_both_orders() -> None:
    objects = np.array([3, 1, 3, 1, 3, 9])
    first, second = draw_pairs(objects, pairs_per_object=200)
    assert (objects[first] == objects[second]).all()
    assert (first != second).all()
    assert np.unique(objects[first], return_counts=True)[1].tolist() == [200, 200]
    assert {(a, b) for a, b in zip(first, second, strict=True) if objects[a] == 3} == {
        (a, b) for a in (0, 2, 4) for b in (0, 2, 4) if a != b
    }
    with pytest.raises(InvalidInput, match="no object has two images"):
        draw_pairs(np.arange(5), pairs_per_object=1)


def test_the_probe_reads_a_rotation_that_the_features_hold() -> None:
    objects, angles = np.repeat(np.arange(60), 10), poses(600).float()
    mix = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    features = quaternion_from_angles(angles) @ mix
    train = rotation_pairs(features[:400], angles[:400], objects[:400], pairs_per_object=40)
    val = rotation_pairs(features[400:], angles[400:], objects[400:], pairs_per_object=10)
    r2, official = relation_r2(train, val, SMALL)
    assert (r2.name, official.name) == ("rotation/r2", "rotation/r2_official")
    assert r2.value > 0.9
    assert r2.low is not None
    assert r2.low > 0.85
    assert official.value > r2.value
    assert (r2.n, r2.detail["num_groups"]) == (200, 20)


def test_the_probe_is_near_its_chance_where_the_features_hold_none() -> None:
    objects, angles = np.repeat(np.arange(200), 10), poses(2000).float()
    features = torch.ones(2000, 16)
    train = rotation_pairs(features[:1500], angles[:1500], objects[:1500], pairs_per_object=40)
    val = rotation_pairs(features[1500:], angles[1500:], objects[1500:], pairs_per_object=20)
    r2, official = relation_r2(train, val, SMALL)
    assert r2.chance == pytest.approx(0, abs=0.01)
    assert official.chance == pytest.approx(0.229, abs=0.03)
    assert r2.value == pytest.approx(r2.chance, abs=0.01)
    assert official.value == pytest.approx(official.chance, abs=0.01)


def test_the_probe_is_a_function_of_its_seed_and_leaves_the_global_generator_alone() -> None:
    objects, angles = np.repeat(np.arange(20), 5), poses(100).float()
    pairs = rotation_pairs(angles, angles, objects, pairs_per_object=5)
    short = PairProbeConfig(hidden=16, steps=5)
    state = torch.get_rng_state()
    first = relation_r2(pairs, pairs, short, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert relation_r2(pairs, pairs, short, seed=1) == first
    assert relation_r2(pairs, pairs, short, seed=2) != first


def test_settings_of_the_probe_must_be_positive() -> None:
    with pytest.raises(ValueError, match="steps must be positive, got 0"):
        PairProbeConfig(steps=0)
