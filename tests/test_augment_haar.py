"""Haar-affine maps are drawn from the group's own measure: multiplying all of them by one map changes no density."""

import math

import numpy as np
import pytest
import torch

from viewfold.augment.draws import view_keys
from viewfold.augment.frame import Frame
from viewfold.augment.geometry import compose, nearest_affine
from viewfold.augment.haar import HaarAffine, HaarAffineConfig

CPU = torch.device("cpu")
R_MAX, R_0 = 1.0, 0.4
BINS = np.linspace(0.1, R_MAX - R_0, 6)  # where the moved ball still covers the drawn one


def draws_of(num: int, config: HaarAffineConfig) -> torch.Tensor:
    return HaarAffine(config).draw(view_keys(0, [0] * num, [f"s/{i}" for i in range(num)], 0))


def radius(matrices: np.ndarray) -> np.ndarray:
    """Half the logarithm of the ratio of singular values: r of the polar decomposition."""
    singular = np.linalg.svd(matrices, compute_uv=False)
    half_ratio: np.ndarray = 0.5 * np.log(singular[:, 0] / singular[:, 1])
    return half_ratio


def stretches(r: np.ndarray, psi2: np.ndarray) -> np.ndarray:
    """exp(X) of determinant 1, with (b, c) = r (cos 2 psi, sin 2 psi)."""
    b, c = np.cos(psi2), np.sin(psi2)
    rows = [[np.cosh(r) + np.sinh(r) * b, np.sinh(r) * c], [np.sinh(r) * c, np.cosh(r) - np.sinh(r) * b]]
    return np.moveaxis(np.array(rows), 2, 0)


def moved_counts(r: np.ndarray, psi2: np.ndarray) -> np.ndarray:
    """By how much the counts of r change when every map is multiplied by one of radius R_0."""
    fixed = stretches(np.array([R_0]), np.array([0.7]))[0]
    after = np.histogram(radius(fixed @ stretches(r, psi2)), BINS)[0]
    ratio: np.ndarray = after / np.histogram(r, BINS)[0]
    return ratio


def test_left_multiplication_keeps_the_radial_law_and_a_uniform_radius_does_not() -> None:
    config = HaarAffineConfig(stretch=R_MAX, rotation_rad=math.pi, log_scale=0)
    drawn = draws_of(200_000, config).double().numpy()
    b, c = drawn[:, 2], drawn[:, 3]
    r, psi2 = np.hypot(b, c), np.arctan2(c, b)
    np.testing.assert_allclose(moved_counts(r, psi2), 1, atol=0.04)
    naive = np.random.default_rng(0).uniform(0, R_MAX, len(r))
    assert np.abs(moved_counts(naive, psi2) - 1).max() > 0.3


def test_the_radius_follows_its_closed_form() -> None:
    drawn = draws_of(4000, HaarAffineConfig(stretch=0.8)).double()
    r = torch.hypot(drawn[:, 2], drawn[:, 3]).sort().values
    law = ((2 * r).cosh() - 1) / (math.cosh(1.6) - 1)
    assert (law - (torch.arange(4000) + 0.5) / 4000).abs().max() < 1.95 / math.sqrt(4000)


def test_places_are_those_of_the_inverse_matrix_exponential() -> None:
    config = HaarAffineConfig(stretch=0.5, log_scale=0.4, rotation_rad=math.pi, translate_ratio=0.2)
    family, frame, draws = HaarAffine(config), Frame.coarse(60, 80), draws_of(6, config)
    fitted = nearest_affine(compose([family], [draws], frame), frame).double()
    rotation, a, b, c, x, y = draws.double().unbind(1)
    symmetric = torch.stack([torch.stack([a + b, c], 1), torch.stack([c, a - b], 1)], 1)
    turn = torch.stack(
        [torch.stack([rotation.cos(), -rotation.sin()], 1), torch.stack([rotation.sin(), rotation.cos()], 1)], 1
    )
    inverse = torch.linalg.inv(torch.matrix_exp(symmetric) @ turn)
    torch.testing.assert_close(fitted[:, :, :2], inverse, atol=1e-5, rtol=0)
    shift = torch.stack([x, y * 60 / 80], dim=1)
    torch.testing.assert_close(fitted[:, :, 2], -(inverse @ shift[:, :, None])[:, :, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("stretch", [0.0, 1e-6])
def test_a_stretch_of_hardly_anything_is_finite_and_a_rotation(stretch: float) -> None:
    config = HaarAffineConfig(stretch=stretch, log_scale=0, translate_ratio=0)
    family, frame = HaarAffine(config), Frame.corners(32, 32)
    linear = nearest_affine(compose([family], [draws_of(5, config)], frame), frame)[:, :, :2]
    torch.testing.assert_close(linear @ linear.mT, torch.eye(2).expand(5, 2, 2), atol=1e-5, rtol=0)
