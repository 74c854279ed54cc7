"""What the families do to pixels, and how their parameters are distributed."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from viewfold.augment import Affine, AffineColourPolicy, AffineConfig, Colour, ColourConfig, Transform, apply_params
from viewfold.augment.params import view_keys

FAMILIES: list[Transform] = [Affine(AffineConfig()), Colour(ColourConfig())]


def keys_of(num: int) -> np.ndarray:
    return view_keys(0, [0] * num, [f"s/{i}" for i in range(num)], 0)


def gradient_image(size: int) -> Tensor:
    """Red grows to the right and green downwards by 1/size a pixel, so a pixel's colour tells where it came from."""
    ramp = (torch.arange(size) + 0.5) / size
    across, down = ramp.expand(size, size), ramp[:, None].expand(size, size)
    return torch.stack([across, down, torch.full((size, size), 0.5)])[None]


def affine_row(**columns: float) -> Tensor:
    return torch.tensor([[columns.get(name, 0.0) for name in Affine.names]])


@pytest.mark.parametrize("family", FAMILIES)
def test_all_zero_parameters_are_the_identity(family: Transform) -> None:
    images = torch.rand(3, 3, 17, 22, generator=torch.Generator().manual_seed(0))
    same = family.apply(images, torch.zeros(3, len(family.names)))
    assert (same - images).abs().max() <= 1e-5  # a float32 coordinate of a 22 pixel side


def test_a_quarter_turn_is_clockwise_as_displayed() -> None:
    images = torch.rand(1, 3, 16, 16)
    turned = FAMILIES[0].apply(images, affine_row(rotation_rad=math.pi / 2))
    torch.testing.assert_close(turned, torch.rot90(images, -1, (2, 3)), atol=1e-5, rtol=0)


def test_translation_moves_the_content_right_and_down_by_its_part_of_the_side() -> None:
    images = torch.rand(1, 3, 20, 20)
    moved = FAMILIES[0].apply(images, affine_row(translate_x_ratio=0.1, translate_y_ratio=0.05))
    torch.testing.assert_close(moved[..., 1:, 2:], images[..., :-1, :-2], atol=1e-5, rtol=0)


def test_pixels_come_from_where_the_written_out_matrix_says() -> None:
    size, rotation, log_scale, shear, shift = 32, 0.3, 0.15, 0.1, (0.05, -0.08)
    row = affine_row(
        rotation_rad=rotation,
        log_scale=log_scale,
        shear_rad=shear,
        translate_x_ratio=shift[0],
        translate_y_ratio=shift[1],
    )
    out = FAMILIES[0].apply(gradient_image(size), row)[0]
    centre = (size - 1) / 2
    turn = np.array([[math.cos(rotation), -math.sin(rotation)], [math.sin(rotation), math.cos(rotation)]])
    forward = math.exp(log_scale) * turn @ np.array([[1, -math.tan(shear)], [0, 1]])
    for x, y in [(16, 16), (12, 20), (20, 11)]:
        source = np.linalg.solve(forward, np.array([x, y]) - centre - size * np.array(shift)) + centre
        np.testing.assert_allclose(out[:2, y, x].numpy() * size - 0.5, source, atol=1e-3)


def test_colours_follow_the_written_out_formula() -> None:
    images = torch.rand(4, 3, 9, 9)
    params = torch.tensor([[0.2, -0.3, 0], [-0.4, 0.5, 1], [0.0, 0.0, 1], [1.0, 1.0, 0]])
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    for image, (brightness, contrast, gray), out in zip(images, params, FAMILIES[1].apply(images, params), strict=True):
        bright = (image * brightness.exp()).clamp(0, 1)
        mean = (luma * bright).sum(0).mean()
        expected = (mean + contrast.exp() * (bright - mean)).clamp(0, 1)
        expected = (luma * expected).sum(0).expand(3, -1, -1) if gray else expected
        torch.testing.assert_close(out, expected, atol=2e-6, rtol=0)


def test_views_stay_within_zero_and_one() -> None:
    policy, images = AffineColourPolicy(), (torch.rand(64, 3, 12, 12) > 0.5).float()
    params = torch.cat([torch.from_numpy(family.draw(keys_of(64))) for family in policy.transforms()], dim=1).float()
    views = apply_params(policy, images, params)
    assert views.min() >= 0
    assert views.max() <= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_columns_are_uniform_in_their_range_and_independent(family: Transform) -> None:
    draws = family.draw(keys_of(4000))[:, : 5 if isinstance(family, Affine) else 2]
    reach = np.array([math.pi / 6, 0.2, 0.1, 0.1, 0.1] if isinstance(family, Affine) else [0.3, 0.3])
    unit = np.sort((draws / reach + 1) / 2, axis=0)
    steps = (np.arange(4000) + 0.5)[:, None] / 4000
    assert np.abs(unit - steps).max() < 1.95 / math.sqrt(4000)  # Kolmogorov-Smirnov at 0.1 %
    assert np.abs(np.corrcoef(draws.T) - np.eye(draws.shape[1])).max() < 4 / math.sqrt(4000)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_configured_share_of_views_is_grey(share: float) -> None:
    gray = Colour(ColourConfig(grayscale=share)).draw(keys_of(4000))[:, 2]
    assert set(np.unique(gray)) <= {0.0, 1.0}
    assert gray.mean() == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 4000))


def test_a_reach_of_zero_switches_a_column_off() -> None:
    draws = Affine(AffineConfig(rotation_rad=0, translate_ratio=0)).draw(keys_of(50))
    assert (draws[:, [0, 3, 4]] == 0).all()
    assert (draws[:, [1, 2]] != 0).all()
