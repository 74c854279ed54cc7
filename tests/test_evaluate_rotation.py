"""R2 of rotation and colour: the published numbers, the closed-form floors, a probe that finds what is there."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewfold.errors import InvalidInput
from viewfold.ssl.evaluate import (
    PairProbeConfig,
    Pairs,
    draw_pairs,
    mrr_chance,
    official_r2,
    relation_pairs,
    relation_r2,
    variance_weighted_r2,
)
from viewfold.ssl.geometry import quaternion_from_angles, relative_rotation
from viewfold.ssl.methods.relations import RELATIONS, Recorded

TARGET = np.array([[0.1, -0.2, 0.3, 0.9], [-0.3, 0.2, 0.1, 0.8], [0.2, 0.1, -0.4, 0.7], [0, -0.1, 0, 1]])
SMALL = PairProbeConfig(hidden=128, steps=300, batch_size=128)


LATENTS = tuple(f"latent_{number}" for number in range(7))


def hue_difference(first: Tensor, second: Tensor) -> Tensor:
    colour = RELATIONS["colour"]
    assert isinstance(colour, Recorded)
    return colour.between(first, second, LATENTS)


def rotation_pairs(features: Tensor, angles: Tensor, objects: NDArray[np.int64], *, pairs_per_object: int) -> Pairs:
    return relation_pairs(features, angles, objects, relate=relative_rotation, pairs_per_object=pairs_per_object)


def colour_pairs(features: Tensor, latents: Tensor, objects: NDArray[np.int64], *, pairs_per_object: int) -> Pairs:
    return relation_pairs(features, latents, objects, relate=hue_difference, pairs_per_object=pairs_per_object)


def poses(num: int, seed: int = 0) -> Tensor:
    """Euler angles by 3DIEBench's law: each uniform within a quarter turn to both sides."""
    unit = torch.rand(num, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (unit - 0.5) * math.pi


def test_r2_has_the_published_values() -> None:
    # The published digits were computed in float32, hence 1e-7; the second value is a fraction.
    predicted = 0.5 * TARGET + 0.1
    assert official_r2(TARGET, predicted) == pytest.approx(0.7497700093, abs=1e-7)
    assert variance_weighted_r2(TARGET, predicted) == pytest.approx(-13 / 55, abs=1e-12)
    means = np.broadcast_to(TARGET.mean(0), TARGET.shape)
    assert official_r2(TARGET, means) == pytest.approx(0.7976080864, abs=1e-7)
    assert variance_weighted_r2(TARGET, means) == pytest.approx(0, abs=1e-12)


def test_weights_are_repetitions() -> None:
    times = np.array([2, 0, 1, 3])
    for score in (official_r2, variance_weighted_r2):
        repeated = score(np.repeat(TARGET, times, 0), np.repeat(0.5 * TARGET, times, 0))
        assert score(TARGET, 0.5 * TARGET, times.astype(float)) == pytest.approx(repeated)


def test_floors_of_the_pose_law_have_their_closed_forms() -> None:
    num, rng = 400_000, np.random.default_rng(0)
    law = [torch.from_numpy(rng.uniform(-math.pi / 2, math.pi / 2, size=(num, 3))) for _ in range(2)]
    relative = relative_rotation(*law).numpy()
    mean_w = 512 / math.pi**6
    assert mean_w == pytest.approx(0.5325626743, abs=1e-10)
    assert_mean(relative, [0, 0, 0, mean_w])
    floor = 3 * mean_w**2 / (4 - mean_w**2)
    assert floor == pytest.approx(0.2289512089, abs=1e-10)
    blind = np.broadcast_to([0, 0, 0, mean_w], relative.shape)
    # The floor is one minus a ratio of two means; its error is that of a mean by the delta method.
    missed = ((relative - blind) ** 2).sum(axis=1)
    total = ((relative - relative.mean()) ** 2).sum(axis=1)
    error = np.std(missed - (1 - floor) * total) / total.mean() / math.sqrt(num)
    assert official_r2(relative, blind) == pytest.approx(floor, abs=3 * error)
    assert variance_weighted_r2(relative, blind) == pytest.approx(0, abs=1e-4)
    first, second = (quaternion_from_angles(angles).numpy() for angles in law)
    random_error = 0.75 - 12 / math.pi**4
    assert random_error == pytest.approx(0.6268082129, abs=1e-10)
    assert_mean(1 - (first * second).sum(axis=1) ** 2, random_error)
    assert_mean(first**2, [0.25 - 1 / math.pi**2] * 3 + [0.25 + 3 / math.pi**2])
    assert mrr_chance(50) == pytest.approx(0.0899841068, abs=1e-10)


def assert_mean(rows: NDArray[np.float64], expected: float | list[float]) -> None:
    """The mean over rows is as expected, within three standard errors."""
    error = rows.std(axis=0) / math.sqrt(len(rows))
    assert (np.abs(rows.mean(axis=0) - expected) <= 3 * error).all()


def test_hue_differences_have_floor_zero() -> None:
    hues = torch.from_numpy(np.random.default_rng(0).random((2, 200_000, 7)))
    difference = hue_difference(hues[0], hues[1]).numpy()
    np.testing.assert_array_equal(difference, (hues[1] - hues[0])[:, [3, 6]])
    assert_mean(difference**2, [1 / 6, 1 / 6])
    assert official_r2(difference, np.zeros_like(difference)) == pytest.approx(0, abs=1e-4)


def test_every_relation_is_asked_of_the_same_pairs() -> None:
    objects, latents = np.repeat(np.arange(4), 3), torch.rand(12, 7, generator=torch.Generator().manual_seed(0))
    rotation = rotation_pairs(latents, latents[:, :3], objects, pairs_per_object=5)
    colour = colour_pairs(latents, latents, objects, pairs_per_object=5)
    assert torch.equal(colour.first, rotation.first)
    assert torch.equal(colour.second, rotation.second)
    first, second = latents[rotation.first], latents[rotation.second]
    assert torch.equal(rotation.target, relative_rotation(first[:, :3], second[:, :3]))
    assert torch.equal(colour.target, (second - first)[:, [3, 6]])


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


def test_the_probe_reads_colours_that_the_features_hold() -> None:
    objects, latents = np.repeat(np.arange(60), 10), torch.rand(600, 7, generator=torch.Generator().manual_seed(0))
    features = latents @ torch.randn(7, 16, generator=torch.Generator().manual_seed(1))
    train = colour_pairs(features[:400], latents[:400], objects[:400], pairs_per_object=40)
    val = colour_pairs(features[400:], latents[400:], objects[400:], pairs_per_object=10)
    r2, official = relation_r2(train, val, SMALL, name="colour")
    assert (r2.name, official.name) == ("colour/r2", "colour/r2_official")
    assert r2.value > 0.9
    assert [r2.chance, official.chance] == pytest.approx([0, 0], abs=0.02)
    same = colour_pairs(features, torch.ones(600, 7), objects, pairs_per_object=1)
    with pytest.raises(InvalidInput, match="colour: it is the same between all 60 pairs"):
        relation_r2(same, same, SMALL, name="colour")


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
