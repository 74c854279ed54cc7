"""Blurred views beside Kornia's Gaussian, closed forms, and how blurs are drawn."""

import math

import pytest
import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor

from viewfold.augment.blur import Blur, BlurConfig, gaussian_blur
from viewfold.augment.draws import view_keys


def keys_of(num: int) -> Tensor:
    return view_keys(0, [0] * num, [f"s/{i}" for i in range(num)], 0)


def noise(num: int, height: int, width: int) -> Tensor:
    return torch.rand(num, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("size", "taps"), [((224, 224), 19), ((64, 96), 9), ((17, 5), 3), ((6, 40), 5)])
def test_blurred_views_are_kornias_with_a_kernel_of_four_sigmas(size: tuple[int, int], taps: int) -> None:
    images, family = noise(5, *size), Blur(BlurConfig(probability=1))
    ratios = torch.tensor([0.0005, 0.003, 0.0045, 0.007, 0.009])
    sigmas = ratios[:, None].expand(-1, 2) * max(size)
    expected = gaussian_blur2d(images, taps, sigmas)
    torch.testing.assert_close(family.apply(images, ratios[:, None]), expected, atol=1e-5, rtol=0)


def test_a_kernel_reaches_at_most_the_opposite_border() -> None:
    images, family = noise(2, 3, 50), Blur(BlurConfig(sigma_ratio=(0.1, 0.1), probability=1))
    expected = gaussian_blur2d(images, 5, torch.full((2, 2), 5.0))
    torch.testing.assert_close(family.apply(images, torch.full((2, 1), 0.1)), expected, atol=1e-5, rtol=0)
    one_pixel = noise(2, 1, 1)
    assert torch.equal(family.apply(one_pixel, torch.full((2, 1), 0.1)), one_pixel)


def test_a_wave_keeps_its_form_and_loses_what_the_gaussians_spectrum_says() -> None:
    side, frequency, sigma = 128, 2 * math.pi / 16, 2.0
    wave = 0.5 + 0.4 * torch.cos(frequency * torch.arange(side)).expand(1, 3, side, side)
    expected = 0.5 + 0.4 * math.exp(-0.5 * (sigma * frequency) ** 2) * torch.cos(frequency * torch.arange(side))
    blurred = gaussian_blur(wave, torch.tensor([sigma]), radius=12)
    torch.testing.assert_close(blurred[0, 0, 64, 16:-16], expected[16:-16], atol=1e-5, rtol=0)


def test_flat_images_stay_flat_and_a_sigma_of_zero_keeps_every_bit() -> None:
    flat = torch.full((1, 3, 20, 20), 0.7)
    torch.testing.assert_close(gaussian_blur(flat, torch.tensor([1.5]), 6), flat, atol=1e-6, rtol=0)
    images = noise(3, 20, 20)
    blurred = gaussian_blur(images, torch.tensor([0.0, 1.5, 0.0]), 6)
    assert torch.equal(blurred[[0, 2]], images[[0, 2]])


def test_weak_blurs_skip_taps_and_keep_the_bits_of_a_batch_with_strong_ones() -> None:
    images, sigmas = noise(4, 40, 40), torch.tensor([0.2, 2.0, 0.4, 0.0])
    together = gaussian_blur(images, sigmas, 9)
    for i in range(4):
        assert torch.equal(gaussian_blur(images[i : i + 1], sigmas[i : i + 1], 9)[0], together[i])


@pytest.mark.parametrize("threads", [1, 2])
def test_batches_of_any_size_hold_the_same_bits(threads: int) -> None:
    images, family = noise(17, 33, 47), Blur(BlurConfig(sigma_ratio=(0.01, 0.05)))
    draws = family.draw(keys_of(17))
    alone = torch.cat([family.apply(images[i : i + 1], draws[i : i + 1]) for i in range(17)])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for num in range(1, 18):
            assert torch.equal(family.apply(images[-num:], draws[-num:]), alone[-num:])
    finally:
        torch.set_num_threads(before)


def test_the_same_draw_blurs_an_image_of_twice_the_size_as_much() -> None:
    coarse = torch.nn.functional.interpolate(noise(1, 12, 12), size=(96, 96), mode="bicubic").clamp(0, 1)
    fine = torch.nn.functional.interpolate(coarse, scale_factor=2, mode="bilinear")
    family, draw = Blur(BlurConfig(sigma_ratio=(0.02, 0.03))), torch.tensor([[0.025]])
    smaller, blurred = torch.nn.functional.avg_pool2d(family.apply(fine, draw), 2), family.apply(coarse, draw)
    torch.testing.assert_close(smaller, blurred, atol=1e-2, rtol=0)
    assert (blurred - coarse).abs().max() > 5e-2


def test_sigmas_are_uniform_and_zero_for_the_views_that_are_not_blurred() -> None:
    ratios = Blur(BlurConfig(sigma_ratio=(0.002, 0.01), probability=0.6)).draw(keys_of(4000))[:, 0].double()
    drawn = ratios[ratios != 0].sort().values
    assert len(drawn) / 4000 == pytest.approx(0.6, abs=4 * math.sqrt(0.24 / 4000))
    steps = (torch.arange(len(drawn)) + 0.5) / len(drawn)
    assert ((drawn - 0.002) / 0.008 - steps).abs().max() < 1.95 / math.sqrt(len(drawn))  # Kolmogorov at 0.1 %


@pytest.mark.parametrize("ratios", [(0.0, 0.01), (0.02, 0.01), (0.01, 0.2)])
def test_ratios_that_make_no_sense_are_refused(ratios: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"sigma_ratio must be two numbers with 0 < least <= largest <= 0.1, got"):
        BlurConfig(sigma_ratio=ratios)
