"""Maps of points: the identity, the global transformation, composition, folds, and what each family promises."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from kornia.geometry.transform import get_affine_matrix2d, warp_affine
from torch import Tensor

from viewfold.augment.affine import Affine, AffineConfig
from viewfold.augment.crop import Crop, CropConfig
from viewfold.augment.draws import view_keys
from viewfold.augment.field_warp import FOLD_BUDGET, FieldWarp, FieldWarpConfig
from viewfold.augment.fields import FieldConfig, gradient_sd
from viewfold.augment.frame import Frame, resample
from viewfold.augment.geometry import compose, fold_fraction, nearest_affine
from viewfold.augment.haar import HaarAffine, HaarAffineConfig
from viewfold.augment.policies import FieldMediumPolicy, FieldMildPolicy, FieldStrongPolicy
from viewfold.augment.transform import Geometric

FAMILIES: list[Geometric] = [
    Affine(AffineConfig()),
    Crop(CropConfig()),
    HaarAffine(HaarAffineConfig()),
    FieldWarp(FieldWarpConfig()),
    FieldWarp(FieldWarpConfig(form="polar")),
]
CPU = torch.device("cpu")


def keys_of(num: int) -> Tensor:
    return view_keys(0, [0] * num, [f"s/{i}" for i in range(num)], 0)


def smooth_images(num: int, height: int, width: int) -> Tensor:
    """Content of long waves only, as in a photograph: neighbouring pixels differ by some hundredths."""
    coarse = torch.rand(num, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)


def gradient_image(size: int) -> Tensor:
    """Red grows to the right and green downwards by 1/size a pixel, so a pixel's colour tells where it came from."""
    ramp = (torch.arange(size) + 0.5) / size
    across, down = ramp.expand(size, size), ramp[:, None].expand(size, size)
    return torch.stack([across, down, torch.full((size, size), 0.5)])[None]


def moved(family: Geometric, images: Tensor, draws: Tensor) -> Tensor:
    frame = Frame.coarse(*images.shape[2:])
    return resample(images, compose([family], [draws], frame), frame)


def affine_row(**columns: float) -> Tensor:
    return torch.tensor([[columns.get(name, 0.0) for name in Affine.names]])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(96, 128), (224, 224), (37, 50)])
def test_draws_of_zeros_are_the_identity(family: Geometric, align_corners: bool, size: tuple[int, int]) -> None:
    images, frame = smooth_images(3, *size), Frame.coarse(*size)
    places = compose([family], [torch.zeros(3, len(family.names))], frame)
    assert (resample(images, places, frame, align_corners=align_corners) - images).abs().max() <= 1e-6


def test_at_sides_that_are_powers_of_two_the_identity_is_exact_even_for_noise() -> None:
    images = torch.rand(2, 3, 64, 128)
    assert torch.equal(moved(FAMILIES[3], images, torch.zeros(2, len(FAMILIES[3].names))), images)


@pytest.mark.parametrize("align_corners", [False, True])
def test_constant_fields_are_kornias_global_transformation(align_corners: bool) -> None:
    height, width, num = 96, 128, 4
    family = FieldWarp(
        FieldWarpConfig(translate_sd=0.05, rotation_sd=0.3, log_scale_sd=0.2, shear_sd=0.2, global_share=1.0)
    )
    images, draws, frame = smooth_images(num, height, width), family.draw(keys_of(num)), Frame.coarse(height, width)
    values = draws.reshape(num, 6, -1)[:, :, 0]
    assert (values.abs() > 1e-3).all()
    shift_x, shift_y, rotation, scale_x, scale_y, shear = values.unbind(1)
    matrix = get_affine_matrix2d(
        torch.stack([shift_x * width, shift_y * height], dim=1),
        torch.tensor([[(width - 1) / 2, (height - 1) / 2]]).expand(num, 2),
        torch.stack([scale_x, scale_y], dim=1).exp(),
        rotation.rad2deg(),
        shear,
    )
    expected = warp_affine(images, matrix[:, :2], (height, width), padding_mode="zeros", align_corners=align_corners)
    places = compose([family], [draws], frame)
    got = resample(images, places, frame, padding="zeros", align_corners=align_corners)
    assert (got - expected).abs().max() <= 1e-4


def test_a_quarter_turn_is_clockwise_as_displayed() -> None:
    images = torch.rand(1, 3, 16, 16)
    turned = moved(FAMILIES[0], images, affine_row(rotation_rad=math.pi / 2))
    torch.testing.assert_close(turned, torch.rot90(images, -1, (2, 3)), atol=1e-5, rtol=0)


def test_translation_moves_the_content_right_and_down_by_its_part_of_the_side() -> None:
    images = torch.rand(1, 3, 20, 20)
    shifted = moved(FAMILIES[0], images, affine_row(translate_x_ratio=0.1, translate_y_ratio=0.05))
    torch.testing.assert_close(shifted[..., 1:, 2:], images[..., :-1, :-2], atol=1e-5, rtol=0)


def test_pixels_come_from_where_the_written_out_matrix_says() -> None:
    size, rotation, log_scale, shear, shift = 32, 0.3, 0.15, 0.1, (0.05, -0.08)
    row = affine_row(
        rotation_rad=rotation,
        log_scale=log_scale,
        shear_rad=shear,
        translate_x_ratio=shift[0],
        translate_y_ratio=shift[1],
    )
    out = moved(FAMILIES[0], gradient_image(size), row)[0]
    centre = (size - 1) / 2
    turn = np.array([[math.cos(rotation), -math.sin(rotation)], [math.sin(rotation), math.cos(rotation)]])
    forward = math.exp(log_scale) * turn @ np.array([[1, -math.tan(shear)], [0, 1]])
    for x, y in [(16, 16), (12, 20), (20, 11)]:
        source = np.linalg.solve(forward, np.array([x, y]) - centre - size * np.array(shift)) + centre
        np.testing.assert_allclose(out[:2, y, x].numpy() * size - 0.5, source, atol=1e-3)


def test_a_crop_shows_its_part_and_a_mirrored_one_turns_it_round() -> None:
    images = torch.rand(1, 3, 32, 32)
    # The part of half the width and height whose upper left corner is the image's: every second pixel, four as one.
    row = torch.tensor([[math.log(0.5), math.log(0.5), -0.25, -0.25, 0.0]])
    shown = moved(FAMILIES[1], images, row)
    upper_left = torch.nn.functional.interpolate(images[..., :16, :16], scale_factor=2.0, mode="bilinear")
    torch.testing.assert_close(shown[..., 1:-1, 1:-1], upper_left[..., 1:-1, 1:-1], atol=1e-5, rtol=0)
    row[0, 4] = 1
    torch.testing.assert_close(moved(FAMILIES[1], images, row), shown.flip(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("area", [(0.08, 1.0), (0.5, 0.5)])
def test_crops_lie_inside_the_image_with_the_configured_areas(area: tuple[float, float]) -> None:
    draws = Crop(CropConfig(area=area)).draw(keys_of(3000)).double()
    width, height, x, y, mirrored = draws.unbind(1)
    assert (x.abs() + width.exp() / 2).max() <= 0.5 + 1e-6
    assert (y.abs() + height.exp() / 2).max() <= 0.5 + 1e-6
    shown = (width + height).exp()
    assert shown.max() <= area[1] + 1e-5
    assert shown.min() >= area[0] * 0.74  # a part as wide as the image is cut, at an aspect of 4 : 3
    assert float(mirrored.mean()) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(3000))


def test_crop_then_warp_in_one_sampling_is_the_warp_of_the_crop() -> None:
    images, families = smooth_images(2, 96, 96), [FAMILIES[1], FAMILIES[3]]
    draws = [family.draw(keys_of(2)) for family in families]
    frame = Frame.pixels(96, 96)
    one = resample(images, compose(families, draws, frame), frame)
    two = moved(families[1], moved(families[0], images, draws[0]), draws[1])
    inside = (slice(None), slice(None), slice(12, -12), slice(12, -12))
    assert (one[inside] - two[inside]).abs().max() < 0.01  # a second interpolation blurs a little


@pytest.mark.parametrize("family", FAMILIES[:3])
def test_affine_families_need_no_more_than_four_nodes(family: Geometric) -> None:
    images, draws = smooth_images(4, 96, 128), family.draw(keys_of(4))
    corners, pixels = Frame.corners(96, 128), Frame.pixels(96, 128)
    few = resample(images, compose([family], [draws], corners), corners)
    many = resample(images, compose([family], [draws], pixels), pixels)
    assert family.is_affine
    torch.testing.assert_close(few, many, atol=2e-5, rtol=0)


def test_the_coarse_map_is_within_a_tenth_of_a_pixel_of_the_dense_one() -> None:
    family, size = FAMILIES[3], 224
    draws = family.draw(keys_of(8))
    coarse, dense = Frame.coarse(size, size), Frame.pixels(size, size)
    between = torch.nn.functional.interpolate(
        compose([family], [draws], coarse), size=(size, size), mode="bilinear", align_corners=True
    )
    off_px = (between - compose([family], [draws], dense)).norm(dim=1) * size
    assert off_px.square().mean().sqrt() < 0.01
    assert off_px.max() < 0.1


def test_the_nearest_affine_map_of_an_affine_map_is_itself() -> None:
    frame = Frame.coarse(60, 80)
    matrix = torch.tensor([[[0.9, -0.2, 0.1], [0.3, 1.1, -0.05]]])
    nodes = frame.points(CPU)
    places = torch.einsum("bij,jyx->biyx", matrix, torch.cat([nodes, torch.ones_like(nodes[:1])]))
    torch.testing.assert_close(nearest_affine(places, frame), matrix)


def test_the_nearest_affine_map_is_the_least_squares_fit() -> None:
    frame, family = Frame.coarse(60, 80), FAMILIES[3]
    places = compose([family], [family.draw(keys_of(3))], frame)
    nodes = frame.points(CPU)
    known = torch.cat([nodes, torch.ones_like(nodes[:1])]).flatten(1).T.double()
    for row, fitted in zip(places.double(), nearest_affine(places, frame), strict=True):
        solution = torch.linalg.lstsq(known, row.flatten(1).T).solution.T
        torch.testing.assert_close(fitted.double(), solution, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("exponent", "translate_sd"), [(8.0, 0.02), (8.0, 0.06), (6.0, 0.05)])
def test_displacement_gradients_follow_the_law(exponent: float, translate_sd: float) -> None:
    config = shifts_only(translate_sd, exponent)
    family, frame = FieldWarp(config), Frame.pixels(112, 112)
    places = compose([family], [family.draw(keys_of(128))], frame).double()
    gradient = (places - frame.points(CPU, torch.float64)).diff(dim=3)[:, 0] * 112
    assert float(gradient.square().mean().sqrt()) == pytest.approx(translate_sd * gradient_sd(config.field), rel=0.1)


def shifts_only(translate_sd: float, exponent: float, torus: float = 1.0) -> FieldWarpConfig:
    return FieldWarpConfig(
        translate_sd=translate_sd,
        rotation_sd=0,
        log_scale_sd=0,
        shear_sd=0,
        field=FieldConfig(exponent=exponent, torus=torus),
    )


def test_no_image_folds_within_the_budget_and_nearly_all_do_far_over_it() -> None:
    frame = Frame.coarse(112, 112)
    folded = []
    for gradient in (0.14, 0.5):
        family = FieldWarp(shifts_only(gradient / gradient_sd(FieldConfig(torus=1.0)), 8.0))
        fractions = fold_fraction(compose([family], [family.draw(keys_of(128))], frame), frame)
        folded.append(float((fractions > 0).float().mean()))
    assert folded[0] == 0
    assert folded[1] > 0.7


def test_policies_fold_no_view_within_the_budget_and_most_warped_ones_of_the_negative_control() -> None:
    frame, folded = Frame.coarse(112, 112), {}
    for policy in (FieldMildPolicy(), FieldMediumPolicy(), FieldStrongPolicy()):
        family = FieldWarp(replace(policy.warp, probability=1.0))
        fractions = fold_fraction(compose([family], [family.draw(keys_of(128))], frame), frame)
        folded[policy.name] = float((fractions > 0).float().mean())
        assert (family.config.gradient_budget <= FOLD_BUDGET) == (policy.name != "field-strong")
    assert folded["field-mild"] == folded["field-medium"] == 0
    assert folded["field-strong"] > 0.7


def test_the_fold_fraction_of_a_known_map_is_counted() -> None:
    frame = Frame.pixels(40, 40)
    places = frame.points(CPU)[None].clone()
    places[:, 0, :, 10:21] = places[:, 0, :, 10:21].flip(2)  # eleven columns in the reverse order: ten cells turn over
    assert fold_fraction(places, frame)[0] == pytest.approx(10 / 39, abs=0.03)
    mirrored = places * torch.tensor([-1.0, 1.0])[:, None, None]
    torch.testing.assert_close(fold_fraction(mirrored, frame), fold_fraction(places, frame))


def test_the_gradient_budget_is_the_sum_of_its_parts() -> None:
    assert FieldWarpConfig().gradient_budget == pytest.approx(0.16, abs=0.005)
    mild = FieldWarpConfig(translate_sd=0.01, rotation_sd=0.02, log_scale_sd=0.02, shear_sd=0.02)
    assert mild.gradient_budget == pytest.approx(0.07, abs=0.005)
    assert FieldWarpConfig(global_share=1.0).gradient_budget == 0


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_places_do_not_depend_on_the_batch_bit_for_bit(family: Geometric, threads: int) -> None:
    keys, frame = keys_of(23), Frame.coarse(64, 64)
    whole = compose([family], [family.draw(keys)], frame)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        subsets: list[Sequence[int]] = [[3], [5, 1, 7], range(22, -1, -1), range(17)]
        for rows in map(list, subsets):
            assert torch.equal(family.draw(keys[rows]), family.draw(keys)[rows])
            assert torch.equal(compose([family], [family.draw(keys[rows])], frame), whole[rows])
    finally:
        torch.set_num_threads(before)


def test_half_precision_images_keep_their_type_and_their_places() -> None:
    images, family = smooth_images(2, 224, 224), FAMILIES[3]
    draws = family.draw(keys_of(2))
    full = moved(family, images, draws)
    for dtype, step in ((torch.bfloat16, 2**-8), (torch.float16, 2**-11)):
        out = moved(family, images.to(dtype), draws)
        assert out.dtype == dtype
        assert (out.float() - full).abs().max() <= 2 * step


@pytest.mark.parametrize("config", [AffineConfig, HaarAffineConfig])
def test_a_reach_of_zero_switches_a_column_off(config: type[AffineConfig] | type[HaarAffineConfig]) -> None:
    settings = config(rotation_rad=0, translate_ratio=0)
    family: Geometric = Affine(settings) if isinstance(settings, AffineConfig) else HaarAffine(settings)
    draws = dict(zip(family.names, family.draw(keys_of(50)).unbind(1), strict=True))
    for name in ("rotation_rad", "translate_x_ratio", "translate_y_ratio"):
        assert (draws[name] == 0).all()
    assert (draws["log_scale"] != 0).all()


def test_affine_columns_are_uniform_in_their_range_and_independent() -> None:
    draws = Affine(AffineConfig()).draw(keys_of(4000)).double().numpy()
    unit = np.sort((draws / np.array([math.pi / 6, 0.2, 0.1, 0.1, 0.1]) + 1) / 2, axis=0)
    steps = (np.arange(4000) + 0.5)[:, None] / 4000
    assert np.abs(unit - steps).max() < 1.95 / math.sqrt(4000)  # Kolmogorov-Smirnov at 0.1 %
    assert np.abs(np.corrcoef(draws.T) - np.eye(5)).max() < 4 / math.sqrt(4000)


def test_ranges_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shear_rad must lie in 0..1.5, got 2"):
        AffineConfig(shear_rad=2)
    with pytest.raises(ValueError, match=r"area must be two numbers with 0 < least <= largest <= 1, got \(0.5, 0.1\)"):
        CropConfig(area=(0.5, 0.1))
    with pytest.raises(ValueError, match=r"global_share must lie in 0..1, got 1.5"):
        FieldWarpConfig(global_share=1.5)
