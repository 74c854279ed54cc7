"""The transformations of the curves: identity at their first strength, and known pictures behind it."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from viewfold.jobs.transformations import TRANSFORMATIONS
from viewfold.pipeline.jpeg import encode_jpeg
from viewfold.ssl.evaluate import Transformation, invariance_curve

TABLE = {transformation.name: transformation for transformation in TRANSFORMATIONS}
NAMES = list(TABLE)
EVEN, ODD = slice(0, None, 2), slice(1, None, 2)


def images_of(num: int, size: int = 32) -> Tensor:
    """Soft coloured clouds, none of them grey, dark or white anywhere."""
    coarse = torch.rand(num, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    return F.interpolate(0.25 + 0.5 * coarse, (size, size), mode="bilinear", align_corners=True)


def ramp(num: int, size: int) -> Tensor:
    """Red tells the column and green the row, both as shares of the side from the centre, plus 1/2."""
    along = (torch.arange(size) + 0.5) / size
    across, down = along.expand(size, size), along[:, None].expand(size, size)
    return torch.stack([across, down, torch.full((size, size), 0.5)]).expand(num, -1, -1, -1)


def inner(images: Tensor, border: int) -> Tensor:
    return images[:, :, border:-border, border:-border]


def apply(name: str, images: Tensor, strength: float) -> Tensor:
    return TABLE[name].apply(images, strength)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_strength_is_the_identity_and_the_others_are_not(name: str) -> None:
    images, strengths = images_of(4), TABLE[name].strengths
    torch.testing.assert_close(apply(name, images, strengths[0]), images, rtol=0, atol=1e-5)
    errors = [float((apply(name, images, s) - images).abs().mean()) for s in strengths]
    assert min(errors[1:]) > 1e-4
    if name in {"brightness", "hue", "jpeg", "field", "translation"}:
        assert errors == sorted(errors)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_depends_on_its_place_and_not_on_the_batch(name: str) -> None:
    images, strength = images_of(5), TABLE[name].strengths[4]
    whole = apply(name, images, strength)
    assert torch.equal(apply(name, images[:3], strength), whole[:3])
    others = images.flip(0)
    others[2] = images[2]
    assert torch.equal(apply(name, others, strength)[2], whole[2])
    assert whole.shape == images.shape
    assert 0 <= whole.min() <= whole.max() <= 1


def test_a_quarter_turn_is_rot90() -> None:
    images = images_of(4)
    turned = inner(apply("rotation", images, 90), 1)
    torch.testing.assert_close(turned[EVEN], inner(images.rot90(-1, (2, 3)), 1)[EVEN], rtol=0, atol=1e-5)
    torch.testing.assert_close(turned[ODD], inner(images.rot90(1, (2, 3)), 1)[ODD], rtol=0, atol=1e-5)


def test_twice_the_scale_enlarges_the_middle_and_half_of_it_averages() -> None:
    images = images_of(4)
    scaled = apply("scale", images, 2)
    large = F.interpolate(inner(images, 8), scale_factor=2, mode="bilinear")
    torch.testing.assert_close(inner(scaled, 1)[EVEN], inner(large, 1)[EVEN], rtol=0, atol=1e-5)
    torch.testing.assert_close(inner(scaled, 8)[ODD], F.avg_pool2d(images, 2)[ODD], rtol=0, atol=1e-5)


def test_shear_leans_by_its_angle() -> None:
    sheared = inner(apply("shear", ramp(2, 64), 20), 16)
    still = inner(ramp(2, 64), 16)
    lean = torch.stack([(still[0, 1] - 0.5), -(still[0, 1] - 0.5)]) * math.tan(math.radians(20))
    torch.testing.assert_close(sheared[:, 0], still[:, 0] + lean, rtol=0, atol=1e-5)
    torch.testing.assert_close(sheared[:, 1], still[:, 1], rtol=0, atol=1e-5)


def test_a_translation_by_pixels_moves_rows_right_left_down_and_up() -> None:
    images = images_of(4)
    moved = inner(apply("translation", images, 4 / 32), 4)
    directions = [(0, 4), (0, -4), (4, 0), (-4, 0)]
    expected = torch.stack([image.roll(way, (1, 2)) for image, way in zip(images, directions, strict=True)])
    torch.testing.assert_close(moved, inner(expected, 4), rtol=0, atol=1e-5)


def test_a_turn_of_the_hue_is_the_identity_and_a_third_takes_red_to_green_or_blue() -> None:
    images = images_of(4)
    torch.testing.assert_close(apply("hue", images, 1), images, rtol=0, atol=1e-5)
    red = torch.tensor([0.8, 0.2, 0.2])[None, :, None, None].expand(2, -1, 4, 4)
    green_blue = apply("hue", red, 1 / 3)[:, :, 0, 0]
    torch.testing.assert_close(green_blue, torch.tensor([[0.2, 0.8, 0.2], [0.2, 0.2, 0.8]]), rtol=0, atol=1e-5)


def test_brightness_multiplies_by_the_gain_or_its_inverse() -> None:
    images = images_of(4)
    bright = apply("brightness", images, math.log(2))
    torch.testing.assert_close(bright[EVEN], (2 * images[EVEN]).clamp(max=1))
    torch.testing.assert_close(bright[ODD], images[ODD] / 2)


def test_the_field_moves_points_by_its_standard_deviation_and_in_proportion() -> None:
    still = ramp(300, 24)
    moved = inner(apply("field", still, 0.01) - still, 3)[:, :2]
    assert float(moved.square().mean().sqrt()) == pytest.approx(0.01, rel=0.1)
    twice = inner(apply("field", still, 0.02) - still, 3)[:, :2]
    torch.testing.assert_close(twice, 2 * moved, rtol=0, atol=1e-5)
    assert not torch.allclose(moved[0], moved[1], atol=1e-3)


@pytest.mark.parametrize("quality", [95, 50, 5])
def test_jpeg_quality_means_what_it_means_elsewhere(quality: int) -> None:
    pixels = (images_of(1)[0] * 255).to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as theirs, Image.open(io.BytesIO(encode_jpeg(pixels, quality))) as ours:
        # Of the same tables; encoders differ in how they round.
        assert vars(ours)["quantization"] == vars(theirs)["quantization"]
        difference = np.asarray(ours).astype(int) - np.asarray(theirs).astype(int)
    assert np.abs(difference).mean() < 1


@pytest.mark.parametrize("transformation", TRANSFORMATIONS, ids=NAMES)
def test_raw_pixels_drift_along_every_curve(transformation: Transformation) -> None:
    curve = invariance_curve(lambda x: (x - 0.5).flatten(1), images_of(6, 16), transformation)
    assert curve.drift[0][:3] == (0.0, 0.0, 0.0)
    assert min(point.value for point in curve.drift[1:]) > 0
    assert curve.name == transformation.name
