"""What the colour families compute, beside Kornia, closed forms and written-out formulas; and how they are drawn."""

import math
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from kornia.augmentation import ColorJitter, RandomGrayscale, RandomSolarize
from kornia.color import rgb_to_grayscale
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_hue,
    adjust_saturation_with_gray_subtraction,
)
from torch import Tensor

from viewfold.augment.colour import Colour, ColourConfig
from viewfold.augment.colour_ops import adjust, adjust_exact, adjust_yiq, luma, mix_channels
from viewfold.augment.draws import uniforms, uniforms_between, view_keys
from viewfold.augment.field_colour import FieldColour, FieldColourConfig
from viewfold.augment.fields import FieldConfig
from viewfold.augment.frame import Frame
from viewfold.augment.grayscale import Grayscale, GrayscaleConfig
from viewfold.augment.rows import change_drawn_rows
from viewfold.augment.solarize import Solarize, SolarizeConfig
from viewfold.errors import MissingDependency

KOLMOGOROV = 1.95
"""Of sqrt(n) times the largest distance between laws, exceeded once in a thousand times."""


def keys_of(num: int) -> Tensor:
    return view_keys(0, [0] * num, [f"s/{i}" for i in range(num)], 0)


def hard_images(height: int = 33, width: int = 47) -> Tensor:
    """Noise, corners of the cube, greys, black patches and ties between channels: where HSV has its edges."""
    images = torch.rand(6, 3, height, width, generator=torch.Generator().manual_seed(0))
    images[1] = images[1].round()
    images[2] = images[2, :1]
    images[3, :, :10] = 0
    images[4] = (images[4] * 4).round() / 4
    return images


def random_numbers(rows: int, columns: int) -> Tensor:
    """Three logarithms of factors and a hue of up to one turn to both sides, six of each."""
    uniform = torch.rand(6, 4, rows, columns, generator=torch.Generator().manual_seed(1))
    return (2 * uniform - 1) * torch.tensor([0.8, 0.8, 0.8, 1.0])[:, None, None]


def parts_of(numbers: Tensor) -> Sequence[Tensor]:
    return *(numbers[:, i : i + 1].exp() for i in range(3)), numbers[:, 3:]


def yiq_one_pixel(pixel: np.ndarray, mean: float, factors: np.ndarray) -> np.ndarray:
    """Y, I and Q by the written-out formulas, and back by solving for rgb."""
    brightness, contrast, saturation, hue = factors
    matrix = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    y, i, q = matrix @ pixel
    cos, sin, k = math.cos(2 * math.pi * hue), math.sin(2 * math.pi * hue), brightness * contrast
    turned = [k * y + (1 - contrast) * brightness * mean, k * saturation * (cos * i + sin * q)]
    rgb: np.ndarray = np.linalg.solve(matrix, [*turned, k * saturation * (cos * q - sin * i)])
    return rgb.clip(0, 1)


@pytest.mark.parametrize("size", [(1, 1), (33, 47)], ids=["number", "field"])
def test_exact_adjustments_are_kornias_four_steps(size: tuple[int, int]) -> None:
    images, (brightness, contrast, saturation, hue) = hard_images(), parts_of(random_numbers(*size))
    expected = adjust_contrast_with_mean_subtraction(adjust_brightness_accumulative(images, brightness), contrast)
    for_two = adjust_exact(images, brightness, contrast)
    torch.testing.assert_close(for_two, expected, atol=1e-5, rtol=0)
    expected = adjust_saturation_with_gray_subtraction(expected, saturation)
    torch.testing.assert_close(adjust_exact(images, brightness, contrast, saturation), expected, atol=1e-5, rtol=0)
    expected = adjust_hue(expected, 2 * math.pi * hue)
    adjusted = adjust_exact(images, brightness, contrast, saturation, hue)
    torch.testing.assert_close(adjusted, expected, atol=1e-5, rtol=0)


def test_one_number_for_each_image_is_kornias_colour_jitter() -> None:
    images, numbers = hard_images(), random_numbers(1, 1) * torch.tensor([1, 1, 1, 0.5])[:, None, None]
    brightness, contrast, saturation, hue = (part[:, 0, 0, 0] for part in parts_of(numbers))
    factors = {
        "brightness_factor": brightness,
        "contrast_factor": contrast,
        "saturation_factor": saturation,
        "hue_factor": hue,
        "order": torch.arange(4),
    }
    family = Colour(ColourConfig(log_saturation=1, hue_turns=0.5))
    changed = family.apply(images, numbers[:, :, 0, 0])
    torch.testing.assert_close(changed, ColorJitter(p=1.0)(images, params=factors), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (33, 47)], ids=["number", "field"])
def test_yiq_adjustments_follow_the_written_out_formula(size: tuple[int, int]) -> None:
    images, numbers = hard_images(), random_numbers(*size)
    changed = adjust(images, numbers, "yiq", saturation=True, hue=True).double().numpy()
    factors = torch.cat([numbers[:, :3].exp(), numbers[:, 3:]], dim=1).double().expand(-1, -1, 33, 47).numpy()
    pixels = images.double().numpy()
    for image in range(6):
        mean = float(np.tensordot([0.299, 0.587, 0.114], pixels[image], 1).mean())
        for place in [(0, 0), (5, 40), (32, 46), (17, 3)]:
            here = (image, slice(None), *place)
            np.testing.assert_allclose(
                changed[here], yiq_one_pixel(pixels[here], mean, factors[here]), atol=2e-6, rtol=0
            )


def test_yiq_gives_the_same_for_a_number_and_for_that_number_at_each_pixel() -> None:
    images, numbers = hard_images(), random_numbers(1, 1)
    for saturation, hue in [(False, False), (True, False), (False, True), (True, True)]:
        everywhere = adjust(images, numbers.expand(-1, -1, 33, 47), "yiq", saturation=saturation, hue=hue)
        once = adjust(images, numbers, "yiq", saturation=saturation, hue=hue)
        torch.testing.assert_close(once, everywhere, atol=2e-6, rtol=0)


@pytest.mark.parametrize("mode", ["exact", "yiq"])
@pytest.mark.parametrize("size", [(1, 1), (33, 47)], ids=["number", "field"])
@pytest.mark.parametrize("turns", [0, 1, -1])
def test_numbers_of_zero_and_whole_turns_are_the_identity(mode: str, size: tuple[int, int], turns: int) -> None:
    images, numbers = hard_images(), torch.zeros(6, 4, *size)
    numbers[:, 3] = turns
    operation = adjust_exact if mode == "exact" else adjust_yiq
    assert (operation(images, *parts_of(numbers)) - images).abs().max() <= 1e-6


@pytest.mark.parametrize("mode", ["exact", "yiq"])
def test_hue_turns_from_red_by_green_to_blue_in_both_modes(mode: str) -> None:
    operation = adjust_exact if mode == "exact" else adjust_yiq
    red, neutral = torch.tensor([0.8, 0.2, 0.2])[None, :, None, None], torch.ones(1, 1, 1, 1)
    towards_green = operation(red, neutral, neutral, None, torch.full_like(neutral, 0.05))
    assert towards_green[0, 1] > towards_green[0, 2] + 0.05
    green, blue = (operation(red, neutral, neutral, None, torch.full_like(neutral, turn)) for turn in (1 / 3, 2 / 3))
    assert green.argmax() == 1
    assert blue.argmax() == 2


def test_a_third_of_a_turn_hands_each_channel_to_the_next() -> None:
    images = hard_images()
    neutral = torch.ones(6, 1, 1, 1)
    turned = adjust_exact(images, neutral, neutral, None, torch.full_like(neutral, 1 / 3))
    torch.testing.assert_close(turned, images.roll(1, dims=1), atol=1e-6, rtol=0)
    complement = adjust_exact(images, neutral, neutral, None, torch.full_like(neutral, 0.5))
    expected = images.amax(1, keepdim=True) + images.amin(1, keepdim=True) - images
    torch.testing.assert_close(complement, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", ["exact", "yiq"])
def test_greys_have_no_hue_and_no_saturation(mode: str) -> None:
    grey, neutral = hard_images()[2:3], torch.ones(1, 1, 1, 1)
    operation = adjust_exact if mode == "exact" else adjust_yiq
    changed = operation(grey, neutral, neutral, 1.7 * neutral, 0.2 * neutral)
    torch.testing.assert_close(changed, grey, atol=1e-6, rtol=0)


def test_a_matrix_for_each_image_mixes_its_channels() -> None:
    images, noise = hard_images(), torch.Generator().manual_seed(2)
    matrix, offset = torch.rand(6, 3, 3, generator=noise), torch.rand(6, 3, 1, 1, generator=noise)
    mixed = torch.einsum("bij,bjhw->bihw", matrix, images) + offset
    torch.testing.assert_close(mix_channels(images, matrix, offset), mixed, atol=1e-6, rtol=0)
    torch.testing.assert_close(luma(images), rgb_to_grayscale(images), atol=1e-6, rtol=0)


def test_only_drawn_rows_are_worked_on() -> None:
    images, draws = hard_images(), torch.tensor([0, 1, 0, 0, -2, 0])[:, None].float()
    seen: list[tuple[int, list[float]]] = []

    def change(some: Tensor, by: Tensor) -> Tensor:
        seen.append((len(some), by[:, 0].tolist()))
        return 1 - some

    changed = change_drawn_rows(change, images, draws)
    assert seen == [(2, [1, -2])]
    assert torch.equal(changed[[1, 4]], 1 - images[[1, 4]])
    assert change_drawn_rows(change, images, 0 * draws) is images


def test_colours_are_uniform_independent_and_at_the_addresses_of_their_names() -> None:
    config = ColourConfig(log_saturation=0.2, hue_turns=0.1)
    keys, reach = keys_of(4000), torch.tensor([0.3, 0.3, 0.2, 0.1])
    draws = Colour(config).draw(keys)
    unit = (draws.double() / reach + 1) / 2
    steps = ((torch.arange(4000) + 0.5) / 4000)[:, None]
    assert (unit.sort(dim=0).values - steps).abs().max() < KOLMOGOROV / math.sqrt(4000)
    assert (torch.corrcoef(draws.T) - torch.eye(4)).abs().max() < 4 / math.sqrt(4000)
    known = uniforms_between(keys, {"log_brightness": (-0.3, 0.3), "log_contrast": (-0.3, 0.3)})
    assert torch.equal(draws[:, :2], known)


def test_what_a_configuration_switches_off_is_neither_drawn_nor_read() -> None:
    family, images = Colour(ColourConfig()), hard_images()
    draws = family.draw(keys_of(6))
    assert (draws[:, 2:] == 0).all()
    assert (draws[:, :2] != 0).all()
    more = draws.clone()
    more[:, 2:] = 0.3
    assert torch.equal(family.apply(images, more), family.apply(images, draws))


@pytest.mark.parametrize("mode", ["exact", "yiq"])
def test_a_field_colour_that_is_all_global_is_the_global_adjustment(mode: str) -> None:
    family = FieldColour(FieldColourConfig(global_share=1, mode="exact" if mode == "exact" else "yiq"))
    images, draws = hard_images(), family.draw(keys_of(6))
    numbers = draws.reshape(6, 4, -1)[:, :, 0]
    assert (numbers != 0).all()
    config = ColourConfig(log_saturation=1, hue_turns=0.5, mode="exact" if mode == "exact" else "yiq")
    torch.testing.assert_close(family.apply(images, draws), Colour(config).apply(images, numbers), atol=1e-5, rtol=0)
    described = family.describe(draws, Frame.coarse(33, 47))
    torch.testing.assert_close(described, numbers, atol=1e-6, rtol=0)


def test_the_larger_the_torus_the_closer_to_the_global_adjustment() -> None:
    images, distances = hard_images()[:1].expand(16, -1, -1, -1), []
    for torus in (1, 4, 16):
        family = FieldColour(FieldColourConfig(field=FieldConfig(exponent=5, torus=torus)))
        draws = family.draw(keys_of(16))
        numbers = family.describe(draws, Frame.pixels(33, 47))
        as_a_whole = adjust(images, numbers[:, :, None, None], "exact", saturation=True, hue=True)
        distances.append((family.apply(images, draws) - as_a_whole).square().mean().sqrt())
    assert distances[0] > 2 * distances[1] > 4 * distances[2]


def test_fields_have_the_configured_deviations_at_any_pixel_and_differ_within_a_view() -> None:
    config = FieldColourConfig(log_brightness_sd=0.3, log_contrast_sd=0.2, log_saturation_sd=0.1, hue_sd=0.05)
    family = FieldColour(config)
    corner = Frame(2, 2, 1, 1)
    values = family.describe(family.draw(keys_of(4000)), corner)
    expected = torch.tensor([0.3, 0.2, 0.1, 0.05])
    assert ((values.std(0) / expected - 1).abs() < 4 / math.sqrt(2 * 4000)).all()
    assert (torch.corrcoef(values.T) - torch.eye(4)).abs().max() < 4 / math.sqrt(4000)
    grey = torch.full((1, 3, 32, 32), 0.4)
    assert family.apply(grey, family.draw(keys_of(1))).std() > 0.01


def test_fields_that_are_off_leave_colours_to_the_others() -> None:
    images = hard_images()
    family = FieldColour(FieldColourConfig(log_saturation_sd=0, hue_sd=0))
    draws = family.draw(keys_of(6))
    parts = draws.reshape(6, 4, -1)
    assert (parts[:, 2:] == 0).all()
    parts[:, 2:] = 0.1
    assert torch.equal(family.apply(images, parts.flatten(1)), family.apply(images, draws))


def test_grey_is_kornias_luma_and_the_other_rows_keep_their_bits() -> None:
    images, draws = hard_images(), torch.tensor([1, 0, 1, 1, 0, 1]).float()[:, None]
    changed = Grayscale(GrayscaleConfig()).apply(images, draws)
    expected = RandomGrayscale(p=0.5)(images, params={"batch_prob": draws[:, 0]})
    torch.testing.assert_close(changed, expected, atol=1e-6, rtol=0)
    assert torch.equal(changed[[1, 4]], images[[1, 4]])
    assert (changed[:, 0] == changed[:, 2])[[0, 2, 3, 5]].all()


def test_solarized_views_are_kornias() -> None:
    images, draws = hard_images(), torch.tensor([1, 0, 1, 1, 0, 1]).float()[:, None]
    changed = Solarize(SolarizeConfig(threshold=0.3)).apply(images, draws)
    params = {"thresholds": torch.full((6,), 0.3), "additions": torch.zeros(6), "batch_prob": draws[:, 0]}
    assert torch.equal(changed, RandomSolarize(p=0.5)(images, params=params))


def test_without_kornia_only_solarizing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kornia.enhance", None)
    images = hard_images()
    Colour(ColourConfig(log_saturation=0.3, hue_turns=0.1)).apply(images, torch.full((6, 4), 0.1))
    Solarize(SolarizeConfig()).apply(images, torch.zeros(6, 1))
    with pytest.raises(MissingDependency, match=r"solarizing needs kornia: pip install 'viewfold\[train\]'"):
        Solarize(SolarizeConfig()).apply(images, torch.ones(6, 1))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_flags_are_zero_or_one_in_the_configured_share_at_the_addresses_of_their_names(share: float) -> None:
    keys = keys_of(4000)
    for family, column in [
        (Grayscale(GrayscaleConfig(probability=share)), "grayscale"),
        (Solarize(SolarizeConfig(probability=share)), "solarized"),
    ]:
        flags = family.draw(keys)
        assert torch.equal(flags, (uniforms(keys, [column]) < share).float())
        assert flags.mean().item() == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 4000))


def test_ranges_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"hue_turns must lie in 0..0.5, got 0.6"):
        ColourConfig(hue_turns=0.6)
    with pytest.raises(ValueError, match=r"log_saturation must lie in 0..2.303, got -0.1"):
        ColourConfig(log_saturation=-0.1)
    with pytest.raises(ValueError, match=r"hue_sd must lie in 0..0.5, got 1"):
        FieldColourConfig(hue_sd=1)
    with pytest.raises(ValueError, match=r"global_share must lie in 0..1, got 2"):
        FieldColourConfig(global_share=2)
    with pytest.raises(ValueError, match=r"probability must lie in 0..1, got -0.1"):
        GrayscaleConfig(probability=-0.1)
    with pytest.raises(ValueError, match=r"threshold must lie in 0..1, got 1.5"):
        SolarizeConfig(threshold=1.5)
