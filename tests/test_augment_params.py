"""What was drawn, as labels: named columns that describe a view, and what takes one view to the other."""

import math

import pytest
import torch
from torch import Tensor

from viewfold.augment.affine import Affine, AffineConfig
from viewfold.augment.crop import Crop, CropConfig
from viewfold.augment.draws import view_keys
from viewfold.augment.field_warp import FieldWarp, FieldWarpConfig
from viewfold.augment.frame import Frame, resample
from viewfold.augment.geometry import compose, nearest_affine
from viewfold.augment.params import GEOMETRY, geometry_columns, relative_geometry, relative_names, relative_params
from viewfold.augment.transform import Geometric

FRAME = Frame.coarse(96, 128)
FIRST = [f"s/{i}" for i in range(12)]


def described(families: list[Geometric], view: int = 0) -> Tensor:
    keys = view_keys(0, [0] * len(FIRST), FIRST, view)
    places = compose(families, [family.draw(keys) for family in families], FRAME)
    return geometry_columns(nearest_affine(places, FRAME), FRAME)


def test_an_affine_view_is_described_by_its_own_draws() -> None:
    family = Affine(AffineConfig())
    draws = dict(zip(family.names, family.draw(view_keys(0, [0] * 12, FIRST, 0)).unbind(1), strict=True))
    columns = dict(zip(GEOMETRY, described([family]).unbind(1), strict=True))
    for name in ("rotation_rad", "shear_rad", "translate_x_ratio", "translate_y_ratio"):
        torch.testing.assert_close(columns[name], draws[name], atol=1e-5, rtol=0)
    torch.testing.assert_close(columns["log_scale_x"], draws["log_scale"], atol=1e-5, rtol=0)
    torch.testing.assert_close(columns["log_scale_y"], draws["log_scale"], atol=1e-5, rtol=0)
    assert (columns["mirrored"] == 0).all()


def test_a_crop_is_a_magnification_and_says_whether_it_is_mirrored() -> None:
    family = Crop(CropConfig())
    width, height, _, _, mirrored = family.draw(view_keys(0, [0] * 12, FIRST, 0)).unbind(1)
    columns = dict(zip(GEOMETRY, described([family]).unbind(1), strict=True))
    assert 0 < mirrored.sum() < 12
    torch.testing.assert_close(columns["mirrored"], mirrored)
    torch.testing.assert_close(columns["log_scale_x"], -width, atol=1e-5, rtol=0)
    torch.testing.assert_close(columns["log_scale_y"], -height, atol=1e-5, rtol=0)
    torch.testing.assert_close(columns["rotation_rad"], torch.zeros(12), atol=1e-5, rtol=0)


def test_a_warp_of_global_terms_is_described_by_them() -> None:
    family = FieldWarp(FieldWarpConfig(global_share=1.0))
    values = family.draw(view_keys(0, [0] * 12, FIRST, 0)).reshape(12, 6, -1)[:, :, 0]
    columns = dict(zip(GEOMETRY, described([family]).unbind(1), strict=True))
    names = ("translate_x_ratio", "translate_y_ratio", "rotation_rad", "log_scale_x", "log_scale_y", "shear_rad")
    for name, value in zip(names, values.unbind(1), strict=True):
        torch.testing.assert_close(columns[name], value, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "families", [[Affine(AffineConfig(rotation_rad=math.pi))], [Crop(CropConfig()), Affine(AffineConfig())]]
)
def test_the_relative_transformation_takes_the_first_view_to_the_second(families: list[Geometric]) -> None:
    """The content of the second view is found in the first where the relative transformation says."""
    ramp = torch.linspace(0, 1, 24)
    coarse = torch.stack([ramp.expand(18, 24), ramp[:18, None].expand(18, 24), (ramp * 5).sin().expand(18, 24)])
    stored = torch.nn.functional.interpolate(coarse[None], size=(96, 128), mode="bicubic").clamp(0, 1)
    stored = torch.nn.functional.pad(stored[:, :, 24:72, 32:96], (32, 32, 24, 24), mode="replicate").expand(
        12, -1, -1, -1
    )
    keys = [view_keys(0, [0] * 12, FIRST, view) for view in (0, 1)]
    maps = [compose(families, [family.draw(k) for family in families], FRAME) for k in keys]
    views = [resample(stored, places, FRAME, padding="border") for places in maps]
    columns = [geometry_columns(nearest_affine(places, FRAME), FRAME) for places in maps]
    relative = relative_geometry(columns[0], columns[1], FRAME)
    again = resample(views[0], pulled_back(relative), FRAME, padding="border")
    same = (again - views[1]).abs()[:, :, 32:-32, 42:-42]  # around the middle, which both views show
    assert float(same.flatten().quantile(0.9)) < 0.03
    swapped = relative_geometry(columns[1], columns[0], FRAME)
    wrong = (resample(views[0], pulled_back(swapped), FRAME, padding="border") - views[1]).abs()[:, :, 32:-32, 42:-42]
    assert wrong.mean() > 4 * same.mean()


def pulled_back(columns: Tensor) -> Tensor:
    """Places of the nodes under a transformation that is told in `GEOMETRY` columns, written out."""
    rotation, scale_x, scale_y, shear, shift_x, shift_y, mirrored = columns.double().unbind(1)
    width, height = FRAME.extent
    zero = torch.zeros_like(rotation)

    def matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        return torch.stack([torch.stack([a, b], 1), torch.stack([c, d], 1)], 1)

    content = (
        matrix(rotation.cos(), -rotation.sin(), rotation.sin(), rotation.cos())
        @ matrix(scale_x.exp(), zero, zero, scale_y.exp())
        @ matrix(zero + 1, -shear.tan(), zero, zero + 1)
        @ matrix(1 - 2 * mirrored, zero, zero, zero + 1)
    )
    shift = torch.stack([shift_x * width, shift_y * height], dim=1)[:, :, None]
    nodes = FRAME.points(torch.device("cpu"), torch.float64).flatten(1)
    places: Tensor = torch.linalg.inv(content) @ (nodes - shift)
    return places.float().reshape(-1, 2, FRAME.rows, FRAME.columns)


def test_relative_to_itself_is_the_identity() -> None:
    columns = described([Crop(CropConfig()), Affine(AffineConfig(rotation_rad=3))])
    torch.testing.assert_close(relative_geometry(columns, columns, FRAME), torch.zeros(12, 7), atol=1e-5, rtol=0)


def test_relative_transformations_of_three_views_compose() -> None:
    a, b, c = (described([Crop(CropConfig()), Affine(AffineConfig())], view) for view in range(3))
    ab, bc, ac = (relative_geometry(x, y, FRAME) for x, y in ((a, b), (b, c), (a, c)))
    # What takes a to c, seen from where a to b ends, is what takes b to c.
    torch.testing.assert_close(relative_geometry(ab, ac, FRAME), bc, atol=1e-4, rtol=0)


def test_colours_are_subtracted_and_geometry_is_not() -> None:
    names = (*GEOMETRY, "log_brightness")
    first, second = (torch.cat([described([Affine(AffineConfig())], v), torch.rand(12, 1)], dim=1) for v in (0, 1))
    relative = relative_params(first, second, names, FRAME)
    told = dict(zip(relative_names(names), relative.unbind(1), strict=True))
    geometry = relative_geometry(first[:, :7], second[:, :7], FRAME)
    torch.testing.assert_close(told["log_brightness"], second[:, 7] - first[:, 7])
    torch.testing.assert_close(relative[:, 2:8], geometry[:, 1:])
    torch.testing.assert_close(torch.atan2(told["rotation_sin"], told["rotation_cos_less_1"] + 1), geometry[:, 0])
    assert (told["translate_x_ratio"] - (second - first)[:, 4]).abs().max() > 1e-3
    only_colour = relative_params(first[:, 7:], second[:, 7:], ("hue",), FRAME)
    torch.testing.assert_close(only_colour[:, 0], told["log_brightness"])
    assert relative_names(("hue",)) == ("hue",)


def test_views_that_are_the_same_are_zeros_apart() -> None:
    columns = torch.cat(
        [described([Crop(CropConfig()), Affine(AffineConfig(rotation_rad=3))]), torch.rand(12, 1)], dim=1
    )
    relative = relative_params(columns, columns, (*GEOMETRY, "hue"), FRAME)
    torch.testing.assert_close(relative, torch.zeros(12, 9), atol=1e-5, rtol=0)
