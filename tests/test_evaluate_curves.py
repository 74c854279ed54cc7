"""Invariance curves against closed forms: features that are a known function of a known change."""

import json
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewfold.errors import InvalidInput
from viewfold.ssl.evaluate import Transformation, bootstrap, drift_curve, invariance_curve
from viewfold.ssl.evaluate.drift import agreement_chance, cosine_drift, drift_chance
from viewfold.ssl.evaluate.means import mean_intervals

ADDED = Transformation(name="added", unit="radians", strengths=(0, 0.25, 0.5, 1), apply=lambda x, s: x + s)
"""Adds the strength to every pixel."""


def grey_images(values: list[float]) -> Tensor:
    return torch.tensor(values)[:, None, None, None].expand(-1, 3, 2, 2)


def on_circle(images: Tensor) -> Tensor:
    """Features at the angle that is an image's mean, of a length that does not matter."""
    angle = images.mean((1, 2, 3))
    return (2 + angle)[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)


def upper_half(features: Tensor) -> Tensor:
    """1 for angles from 1 to 3 radians, else 0."""
    angle = torch.atan2(features[:, 1], features[:, 0])
    return (angle >= 1).long()


def test_drift_and_change_of_a_known_turn() -> None:
    curve = invariance_curve(on_circle, grey_images([0.1, 0.3, 0.55, 0.8, 1.2]), ADDED, predict=upper_half)
    assert curve.strengths == [0, 0.25, 0.5, 1]
    expected = [1 - math.cos(s) for s in curve.strengths]
    assert [point.value for point in curve.drift] == pytest.approx(expected, abs=1e-6)
    assert curve.drift[0][:3] == (0.0, 0.0, 0.0)
    assert curve.change is not None
    assert [point.value for point in curve.change] == pytest.approx([0, 1 / 5, 2 / 5, 4 / 5])
    assert curve.change_chance == pytest.approx(1 - (16 + 1) / 25)
    measure = curve.measure()
    assert (measure.name, measure.n, measure.chance) == ("curve/added", 5, curve.drift_chance)
    assert measure.value == pytest.approx(sum(expected[1:]) / 3, abs=1e-6)
    assert measure.detail == {"unit": "radians", "strengths": [0.25, 0.5, 1]}


def test_a_part_has_the_curve_of_its_own_features() -> None:
    images = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def encode(x: Tensor) -> Tensor:
        return x.flatten(1).sin()

    encoded = [encode(ADDED.apply(images, strength)) for strength in ADDED.strengths]
    part = drift_curve([features[:, :7] for features in encoded], ADDED, groups=[0, 0, 1, 1, 2, -1], seed=4)
    whole = invariance_curve(lambda x: encode(x)[:, :7], images, ADDED, groups=[0, 0, 1, 1, 2, -1], seed=4)
    assert part == whole
    assert part != drift_curve(encoded, ADDED, groups=[0, 0, 1, 1, 2, -1], seed=4)


def test_a_curve_survives_json() -> None:
    curve = invariance_curve(on_circle, grey_images([0.1, 0.4]), ADDED, groups=[3, 3])
    data = json.loads(json.dumps(curve.to_dict()))
    assert data == curve.to_dict()
    assert data["change"] is data["change_chance"] is None
    assert data["drift"][0] == [0.0, None, None]  # of one group there is nothing to draw


def test_features_that_ignore_the_change_do_not_drift() -> None:
    images = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    curve = invariance_curve(lambda x: (x - x.mean((2, 3), keepdim=True)).flatten(1), images, ADDED)
    assert max(point.value for point in curve.drift) < 1e-12
    assert curve.drift_chance > 0.5


def test_drift_is_one_minus_the_cosine_and_chance_its_mean_over_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 7, 5, generator=generator)
    torch.testing.assert_close(cosine_drift(first, second), 1 - torch.cosine_similarity(first, second).double())
    pairs = [cosine_drift(first[i : i + 1], first[j : j + 1]) for i in range(7) for j in range(7) if i != j]
    assert drift_chance(first) == pytest.approx(float(torch.cat(pairs).mean()))
    assert cosine_drift(torch.zeros(1, 3), torch.ones(1, 3)).item() == pytest.approx(0.5)
    with pytest.raises(InvalidInput, match="at least two images"):
        drift_chance(first[:1])


def test_predictions_agree_by_chance_as_often_as_their_shares_say() -> None:
    labels = torch.tensor([4, 4, 7, 4])
    assert agreement_chance(labels) == pytest.approx(9 / 16 + 1 / 16)
    assert agreement_chance(labels, 9) == pytest.approx(0.75**9 + 0.25**9)


def test_intervals_of_means_are_those_of_the_bootstrap() -> None:
    rng = np.random.default_rng(0)
    columns, groups = rng.normal(size=(40, 3)), rng.integers(-1, 9, size=40)
    for column, interval in enumerate(mean_intervals(columns, groups, seed=3, num_draws=200)):

        def mean(weights: NDArray[np.float64], values: NDArray[np.float64] = columns[:, column]) -> float:
            return float(np.average(values, weights=weights))

        drawn = bootstrap(mean, groups, seed=3, num_draws=200)
        assert interval[:3] == pytest.approx(drawn[:3])
        assert interval.draws == pytest.approx(drawn.draws)
    assert mean_intervals(columns, np.zeros(40, dtype=np.int64))[0][1:] == (None, None, None)
