"""The contact sheet shows what the policy really does: its tiles are the views, its grid is the views' own map."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from viewfold.augment.affine import AffineConfig
from viewfold.augment.field_warp import FieldWarp, FieldWarpConfig
from viewfold.augment.policies import AffineColourPolicy, AffinePolicy, NonePolicy, PolicyConfig
from viewfold.augment.sheet import LEAST_TILE_PX, policy_facts, policy_sheet
from viewfold.augment.transform import Transform
from viewfold.augment.view import describe, draw_view, render

SAMPLES = ["shard/a", "shard/b"]
STILL = AffineConfig(rotation_rad=0, log_scale=0, shear_rad=0, translate_ratio=0)
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class WarpedPolicy(PolicyConfig):
    """A warp alone."""

    name: str = "warped"
    warp: FieldWarpConfig = field(default_factory=FieldWarpConfig)

    def transforms(self) -> tuple[Transform, ...]:
        return (FieldWarp(self.warp),)


def images_of(size: int) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def sheet_of(policy: PolicyConfig, size: int = 64, num_views: int = 3) -> Pixels:
    return np.asarray(policy_sheet(policy, images_of(size), SAMPLES, num_views=num_views, seed=7))


def places_of(sheet: Pixels, tile: Pixels) -> list[tuple[int, int]]:
    """(y, x) of every place where the sheet shows the tile, pixel by pixel."""
    height, width = tile.shape[:2]
    room = sheet[: len(sheet) - height + 1, : sheet.shape[1] - width + 1]
    corners = np.argwhere((room == tile[0, 0]).all(2)).tolist()
    return [(y, x) for y, x in corners if np.array_equal(sheet[y : y + height, x : x + width], tile)]


def tile_of(image: Tensor, scale: int) -> Pixels:
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


@pytest.mark.parametrize("size", [32, 50, 128, 160])
def test_rows_are_images_and_columns_their_views(size: int) -> None:
    policy, scale = AffinePolicy(), -(-LEAST_TILE_PX // size)
    sheet = sheet_of(policy, size)
    columns = [images_of(size)]
    for view in range(3):
        draws = draw_view(policy, seed=7, epochs=[0, 0], samples=SAMPLES, view=view)
        columns.append(render(policy, images_of(size), draws))
    found = [[places_of(sheet, tile_of(image, scale)) for image in column] for column in columns]
    assert all(len(places) == 1 for column in found for places in column)
    corners = np.array(found)[:, :, 0]
    assert (np.diff(corners[:, :, 1], axis=0) >= size * scale).all()
    assert (np.diff(corners[:, :, 0], axis=1) >= size * scale).all()
    assert (np.diff(corners[:, :, 0], axis=0) == 0).all()


def test_a_policy_without_families_has_no_grid_and_no_card() -> None:
    assert sheet_of(NonePolicy()).shape[1] < sheet_of(AffinePolicy()).shape[1] < sheet_of(AffineColourPolicy()).shape[1]


def test_a_map_that_moves_nothing_leaves_the_grid_as_it_was() -> None:
    sheet = sheet_of(AffinePolicy(affine=STILL), size=128)
    right, first_row = sheet.shape[1] - 10 - 128, places_of(sheet, tile_of(images_of(128)[0], 1))[0][0]
    drawn = sheet[first_row : first_row + 128, right : right + 128]
    assert len(places_of(sheet, drawn)) == 3  # one without the policy, one for each image
    assert orange(drawn).any()


def test_the_marked_cell_is_where_the_view_shows_that_corner() -> None:
    policy = AffinePolicy(affine=AffineConfig(rotation_rad=0.3, log_scale=0.4, shear_rad=0, translate_ratio=0.2))
    samples = [f"shard/{number}" for number in range(100)]
    draws = draw_view(policy, seed=0, epochs=[0] * 100, samples=samples, view=0)
    rotation, log_scale, _, _, x, y, _ = describe(policy, draws, height=192, width=192).params.double().numpy().T
    corner_x = corner_y = np.exp(log_scale) * -7 / 16  # centre of the first of eight cells, from the image's centre
    across = np.cos(rotation) * corner_x - np.sin(rotation) * corner_y + x + 0.5
    down = np.sin(rotation) * corner_x + np.cos(rotation) * corner_y + y + 0.5
    within = np.flatnonzero((np.minimum(across, down) > 0.15) & (np.maximum(across, down) < 0.85))[:4]
    assert len(within) == 4
    for number in within:
        sheet = np.asarray(policy_sheet(policy, images_of(192)[:1], [samples[number]], num_views=1, seed=0))
        rows, columns = np.nonzero(orange(sheet[200:, -(192 + 10) : -10]))
        top = places_of(sheet, tile_of(images_of(192)[0], 1))[0][0] - 200
        found = [columns.mean() + 0.5, rows.mean() - top + 0.5]
        np.testing.assert_allclose(found, [192 * across[number], 192 * down[number]], atol=1.5)


def orange(pixels: Pixels) -> NDArray[np.bool_]:
    """Where the cell that is filled in the lattice is seen."""
    red, green, blue = np.moveaxis(pixels.astype(int), 2, 0)
    seen: NDArray[np.bool_] = (red > 200) & (green > 150) & (green < 230) & (blue < 120)
    return seen


def test_settings_that_differ_the_budget_and_the_folds_are_told() -> None:
    plain = policy_facts(WarpedPolicy(), fold_fraction=0.0)
    assert plain[0] == "A warp alone."
    assert "settings: default" in plain
    warp = FieldWarpConfig(rotation_sd=0.4)
    facts = policy_facts(WarpedPolicy(warp=warp), fold_fraction=0.125)
    assert "settings: warp.rotation_sd=0.4" in facts
    assert any(line.startswith(f"gradient budget {warp.gradient_budget:.2f}") for line in facts)
    assert any(line.endswith("12.5 %") for line in facts)
    assert not any("fold" in line for line in policy_facts(AffinePolicy(), fold_fraction=None))


def test_a_sheet_is_the_same_every_time() -> None:
    policy = WarpedPolicy()
    assert np.array_equal(sheet_of(policy), sheet_of(policy))
    other = policy_sheet(policy, images_of(64), SAMPLES, num_views=3, seed=8)
    assert isinstance(other, Image.Image)
    assert not np.array_equal(np.asarray(other), sheet_of(policy))
