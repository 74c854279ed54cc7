"""Random fields have the mean, variance, spectrum and covariance that their definition says."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from viewfold.augment.draws import view_keys
from viewfold.augment.fields import FieldConfig, draw_fields, gradient_sd, synthesise
from viewfold.augment.frame import Frame
from viewfold.augment.smooth import draw_smooth, smooth_names, smooth_values

PERIODIC = FieldConfig(torus=1.0)
CPU = torch.device("cpu")


def keys_of(num: int) -> Tensor:
    return view_keys(0, [0] * num, [f"s/{i}" for i in range(num)], 0)


def fields_of(config: FieldConfig, num: int, size: int) -> Tensor:
    coefficients = draw_fields(keys_of(num), ["f"], config)
    return synthesise(coefficients, Frame.pixels(size, size), config)[:, 0].double()


def half_plane(cutoff: int) -> list[tuple[int, int]]:
    pairs = [(y, x) for x in range(cutoff + 1) for y in range(-cutoff, cutoff + 1)]
    kept = [(y, x) for y, x in pairs if 0 < y * y + x * x <= cutoff**2 and (x > 0 or y > 0)]
    return sorted(kept, key=lambda n: (n[0] ** 2 + n[1] ** 2, n))


def theoretical_covariance(config: FieldConfig, offsets: np.ndarray) -> np.ndarray:
    """C(r) = sum a_n^2 cos(2 pi n.r / L) for `[k, 2]` offsets (y, x) in longer sides."""
    modes = np.array(half_plane(config.cutoff), dtype=float)
    power = (modes**2).sum(1) ** (-config.exponent / 2)
    waves = np.cos(2 * math.pi / config.torus * offsets @ modes.T)
    covariance: np.ndarray = waves @ (power / power.sum())
    return covariance


@pytest.mark.parametrize("config", [FieldConfig(), FieldConfig(cutoff=3, torus=1.3, exponent=4)])
def test_separable_synthesis_is_the_direct_sum(config: FieldConfig) -> None:
    coefficients = draw_fields(keys_of(5), ["a", "b"], config)
    frame = Frame.coarse(130, 160)
    down, across = frame.down(CPU), frame.across(CPU)
    modes = torch.tensor(half_plane(config.cutoff)).double()
    phase = 2 * math.pi / config.torus * (modes[:, :1, None] * down[:, None] + modes[:, 1:, None] * across)
    cos, sin = coefficients[:, :, 1:].double().chunk(2, dim=2)
    direct = torch.einsum("bfm,myx->bfyx", cos, phase.cos()) + torch.einsum("bfm,myx->bfyx", sin, phase.sin())
    assert (synthesise(coefficients, frame, config) - direct).abs().max() <= 1e-5


@pytest.mark.parametrize(("exponent", "spread"), [(4.0, 0.46), (8.0, 0.65)])
def test_mean_is_zero_in_each_image_and_variance_one_over_images(exponent: float, spread: float) -> None:
    fields = fields_of(FieldConfig(torus=1.0, exponent=exponent), 2000, 24)
    assert fields.mean((1, 2)).abs().max() <= 1e-6
    per_image = fields.var((1, 2), unbiased=False)
    assert float(per_image.mean()) == pytest.approx(1, abs=4 * spread / math.sqrt(2000))
    assert float(per_image.std()) == pytest.approx(spread, rel=0.12)
    per_pixel = fields.square().mean(0)
    assert (per_pixel - 1).abs().max() < 5.5 * math.sqrt(2 / 2000)  # flat: the same at borders and in the middle


def test_fields_of_different_names_are_independent() -> None:
    coefficients = draw_fields(keys_of(2000), ["a", "b"], PERIODIC)
    values = synthesise(coefficients, Frame.pixels(2, 2), PERIODIC)[:, :, 0, 0].double()
    assert torch.corrcoef(values.T)[0, 1].abs() < 4 / math.sqrt(2000)


@pytest.mark.parametrize("exponent", [2.0, 3.0, 4.0, 6.0, 8.0, 10.0])
def test_the_spectrums_slope_is_the_exponent_and_nothing_is_beyond_the_cutoff(exponent: float) -> None:
    config = FieldConfig(torus=1.0, exponent=exponent, cutoff=16)
    # Coefficients, not pixels: at exponent 10 a wave of 14 cycles is 1e-11 of the power, below float32 pixels.
    cos, sin = draw_fields(keys_of(512), ["f"], config)[:, 0, 1:].double().chunk(2, dim=1)
    power = (cos.square() + sin.square()).mean(0)
    k = torch.tensor(half_plane(16)).double().square().sum(1).sqrt()
    kept = (k >= 2) & (k <= 14)
    slope = np.polyfit(k[kept].log().numpy(), power[kept].log().numpy(), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.1)
    spectrum = torch.fft.fft2(fields_of(config, 8, 64)).abs().square().mean(0)
    frequencies = torch.fft.fftfreq(64, 1 / 64).double()
    beyond = torch.hypot(frequencies[:, None], frequencies[None]) > 16.001
    assert spectrum[beyond].max() <= 1e-9 * spectrum.max()


@pytest.mark.parametrize("size", [24, 25])
def test_covariance_is_that_of_both_fourier_forms(size: int) -> None:
    config, num = FieldConfig(torus=1.0, exponent=4.0, cutoff=size // 2 - 1), 20_000
    offsets = np.array([(0, 1), (1, 0), (2, 3), (0, 6), (5, 5)])
    theory = theoretical_covariance(config, offsets / size)

    def measured(fields: Tensor) -> np.ndarray:
        first = fields[:, 3, 4]
        return np.array([float((first * fields[:, 3 + y, 4 + x]).mean()) for y, x in offsets.tolist()])

    noise = torch.Generator().manual_seed(0)
    frequency = torch.fft.fftfreq(size, 1 / size).double()
    k = torch.hypot(frequency[:, None], torch.arange(size // 2 + 1).double()[None])
    inside = (k > 0) & (k <= config.cutoff)
    gain = torch.where(inside, k.clamp(min=1) ** (-config.exponent / 2), 0.0)
    whole = torch.hypot(frequency[:, None], frequency[None])
    total = torch.where((whole > 0) & (whole <= config.cutoff), whole.clamp(min=1) ** -config.exponent, 0.0).sum()
    gain = gain * size / total.sqrt()
    white = torch.fft.irfft2(torch.fft.rfft2(torch.randn(num, size, size, generator=noise)) * gain, s=(size, size))
    plane = torch.randn(num, size, size // 2 + 1, 2, generator=noise).double() * (size / math.sqrt(2))
    plane[:, :, [0, *([size // 2] if size % 2 == 0 else [])]] *= math.sqrt(2)  # only their real part is kept
    half = torch.fft.irfft2(torch.view_as_complex(plane.contiguous()) * gain, s=(size, size))
    for fields in (fields_of(config, num, size), white.double(), half):
        np.testing.assert_allclose(measured(fields), theory, atol=0.03)


def test_a_gaussian_spectrum_has_the_correlation_length_it_is_given() -> None:
    for length, lag in [(1.0, 8), (0.5, 4)]:  # a half of L / (2 pi) correlates over half the distance
        config = FieldConfig(torus=4.0, spectrum="gaussian", length=length, cutoff=12)
        values = fields_of(config, 3000, 48)[:, 20, 20 : 20 + lag + 1]
        covariance = float((values[:, 0] * values[:, -1]).mean())
        modes = np.array(half_plane(12), dtype=float)
        power = np.exp(-0.5 * (modes**2).sum(1) * length**2)
        offset = np.array([0, lag / 48])
        theory = float((power * np.cos(2 * math.pi / 4 * modes @ offset)).sum() / power.sum())
        assert covariance == pytest.approx(theory, abs=4 / math.sqrt(3000))


def test_a_larger_torus_moves_variance_into_the_image_mean() -> None:
    shares = []
    for torus in (1.0, 1.5, 2.0, 4.0):
        fields = fields_of(FieldConfig(torus=torus), 1500, 24)
        shares.append(float(fields.mean((1, 2)).var() / fields.square().mean()))
    np.testing.assert_allclose(shares, [0, 0.16, 0.39, 0.80], atol=0.05)


def test_sample_normalisation_gives_each_image_its_strength_and_range_a_hard_bound() -> None:
    sample = fields_of(FieldConfig(torus=1.0, normalise="sample"), 50, 32)
    torch.testing.assert_close(sample.var((1, 2), unbiased=False), torch.ones(50).double(), atol=1e-4, rtol=0)
    largest = fields_of(FieldConfig(normalise="range"), 50, 129).abs().amax((1, 2))
    assert largest.max() <= 1.005  # waves may peak between the nodes at which their largest value is looked for
    assert largest.min() >= 0.98


def test_the_measured_gradient_is_the_formulas() -> None:
    config = FieldConfig()
    assert gradient_sd(config) == pytest.approx(2.32, abs=0.01)
    fields = fields_of(config, 4000, 64)
    slope = fields[:, :, 1:].sub(fields[:, :, :-1]) * 64
    assert float(slope.square().mean().sqrt()) == pytest.approx(gradient_sd(config), rel=0.05)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [8, 16, 24, 32, 40, 64, 100, 224, 228])
@pytest.mark.parametrize("cutoff", [4, 6, 8])
def test_a_field_does_not_depend_on_its_batch_bit_for_bit(cutoff: int, size: int, threads: int) -> None:
    config = FieldConfig(cutoff=cutoff)
    coefficients = draw_fields(keys_of(40), ["a", "b"], config)
    before = torch.get_num_threads()
    for frame in (Frame.coarse(size, size), Frame.coarse(size, 16), Frame.coarse(16, size)):
        whole = synthesise(coefficients, frame, config)
        torch.set_num_threads(threads)
        try:
            for rows in ([3], [5, 1, 7], list(range(39, -1, -1)), list(range(13))):
                assert torch.equal(synthesise(coefficients[rows], frame, config), whole[rows])
        finally:
            torch.set_num_threads(before)


def test_a_higher_cutoff_only_adds_waves() -> None:
    low, high = FieldConfig(cutoff=4), FieldConfig(cutoff=8)
    few, many = draw_fields(keys_of(3), ["f"], low), draw_fields(keys_of(3), ["f"], high)
    ratio = many[..., 1 : 1 + len(low.modes)] / few[..., 1 : 1 + len(low.modes)]
    torch.testing.assert_close(ratio, ratio[:1, :1, :1].expand_as(ratio))  # their common variance is shared out


def test_the_global_share_leads_from_a_field_to_one_number() -> None:
    for share in (0.0, 0.5, 1.0):
        draws = draw_smooth(keys_of(2000), {"a": 0.3}, PERIODIC, global_share=share, probability=1.0)
        assert draws.shape == (2000, len(smooth_names(["a"], PERIODIC)))
        values = smooth_values(draws, Frame.pixels(8, 8), PERIODIC)[:, 0].double()
        assert float(values.square().mean()) == pytest.approx(0.09, rel=0.12)
        assert float(values.mean((1, 2)).var()) == pytest.approx(0.09 * share, abs=0.012)
    assert values.var((1, 2)).max() < 1e-12


def test_the_probability_leaves_its_share_of_rows_alone() -> None:
    draws = draw_smooth(keys_of(2000), {"a": 0.3, "b": 0.1}, PERIODIC, global_share=0.5, probability=0.3)
    moved = (draws != 0).any(1)
    assert float(moved.float().mean()) == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 2000))
    assert (draws[moved] != 0).all()


@pytest.mark.parametrize(("name", "value"), [("exponent", -1.0), ("cutoff", 0), ("torus", 0.5)])
def test_a_field_that_makes_no_sense_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} must lie in .*, got {value}"):
        FieldConfig(**{name: value})  # type: ignore[arg-type]
