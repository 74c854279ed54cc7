"""Gaussian random fields: smooth random functions of the image's coordinates, held as spectral coefficients.

A field is a sum of waves on a torus of side L, `torus` times the image's longer side (2311.03629 has the idea; the
constants are ours, for the paper's could not be read):

    f(p) = sum over modes n of c_n cos(2 pi n.p / L) + s_n sin(2 pi n.p / L),   c_n, s_n ~ Normal(0, a_n^2)

with a_n^2 proportional to the spectrum at |n| and sum a_n^2 = 1. It has no constant term: what a torus factor over 1
puts into an image's mean, and the global term that families add, lead over to the classic global transformation.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from viewfold.augment.draws import normal_pairs
from viewfold.augment.frame import Frame
from viewfold.augment.kept import kept
from viewfold.config import Config, check_ranges

_RANGE_FRAME = Frame.coarse(256, 256)
"""The nodes at which `range` looks for the largest value: 8 a wave at cutoff 8."""


@dataclass(frozen=True, kw_only=True)
class FieldConfig(Config):
    """Which random functions are drawn; how strong they are is said where they are used."""

    spectrum: Literal["power", "gaussian"] = "power"
    """Variance by wave number k: `power` is k^-exponent, `gaussian` is exp(-(k * length)^2 / 2)."""
    exponent: float = 8.0
    """Of `power`: 8 is one smooth swell; 4 is the limit for warps (gradients diverge), 3 for colours; 2 is noise."""
    length: float = 1.0
    """Of `gaussian`: correlation length in units of L / (2 pi)."""
    cutoff: int = 8
    """Largest wave number, in cycles per side of the torus, 1..32."""
    torus: float = 2.0
    """Side L of the torus in longer sides of the image, 1..16: at 1 opposite borders match, over 3 a field is mostly a
    constant over the image."""
    normalise: Literal["ensemble", "sample", "range"] = "ensemble"
    """What equals 1: the variance over all draws, the variance of each draw over its torus, or each draw's largest
    absolute value over a square image, for a hard bound."""

    def __post_init__(self) -> None:
        check_ranges(self, exponent=(0, 16), length=(0, 16), cutoff=(1, 32), torus=(1, 16))

    @functools.cached_property
    def modes(self) -> Int64[Tensor, "mode 2"]:
        """(y, x) wave numbers of one half-plane up to `cutoff`, ordered by length: a larger cutoff only appends."""
        pairs = [
            (y, x)
            for x in range(self.cutoff + 1)
            for y in range(-self.cutoff, self.cutoff + 1)
            if 0 < y * y + x * x <= self.cutoff**2 and (x > 0 or y > 0)
        ]
        return torch.tensor(sorted(pairs, key=lambda n: (n[0] ** 2 + n[1] ** 2, n)))

    @functools.cached_property
    def amplitudes(self) -> Float[Tensor, " mode"]:
        """a_n: standard deviation of each mode's two coefficients."""
        k = self.modes.double().square().sum(1).sqrt()
        power = k**-self.exponent if self.spectrum == "power" else torch.exp(-0.5 * (k * self.length) ** 2)
        return (power / power.sum()).sqrt().float()


def draw_fields(
    keys: Int64[Tensor, " batch"], names: Sequence[str], config: FieldConfig
) -> Float[Tensor, "batch field wave"]:
    """Coefficients of a field of unit strength for each key and name: a constant of 0, the cosines, the sines."""
    waves = normal_pairs(keys, names, len(config.modes)) * config.amplitudes.to(keys.device)
    coefficients = torch.cat([torch.zeros_like(waves[:, :, 0, :1]), waves[:, :, 0], waves[:, :, 1]], dim=2)
    if config.normalise == "sample":
        return coefficients / coefficients.square().sum(2, keepdim=True).mul(0.5).sqrt()
    if config.normalise == "range":
        return coefficients / synthesise(coefficients, _RANGE_FRAME, config).abs().amax((2, 3))[..., None]
    return coefficients


def synthesise(
    coefficients: Float[Tensor, "batch field wave"], frame: Frame, config: FieldConfig
) -> Float[Tensor, "batch field rows columns"]:
    """The fields at the nodes of the frame; coefficients as `draw_fields` has them, with any constant.

    Two small products instead of a transform: the waves separate into rows and columns, and few of them are there.
    """
    bases = _bases(config, frame, coefficients.device)
    num, size = coefficients.shape[0] * coefficients.shape[1], config.cutoff
    grid = torch.matmul(coefficients, bases.places).reshape(num, size + 1, 4 * size + 2)
    # Products of one shape, one for each field: in a single large one, a field's bits would depend on the others.
    lines = torch.bmm(grid, bases.rows.expand(num, -1, -1)).reshape(num, 2 * size + 2, bases.rows.shape[1] // 2)
    values = torch.bmm(lines.transpose(1, 2), bases.columns.expand(num, -1, -1))
    return values.reshape(*coefficients.shape[:2], *values.shape[1:])[:, :, : frame.rows, : frame.columns]


def gradient_sd(config: FieldConfig) -> float:
    """Standard deviation of the derivative of a field of unit strength along an axis, per longer side of the image.

    G = (2 pi / torus) sqrt(<k^2> / 2), with the mean over the spectrum.
    """
    mean_square = float((config.amplitudes.square() * config.modes.square().sum(1)).sum())
    return 2 * math.pi / config.torus * math.sqrt(mean_square / 2)


class _Bases(NamedTuple):
    """The matrices of a synthesis, with C = c - i s, f = Re sum_x e^{i x} Y(y, x) and Y = sum_y C e^{i y}."""

    places: Float[Tensor, "wave place"]
    """0 or 1: where each coefficient stands among (x, cosine or sine, y)."""
    rows: Float[Tensor, "wave_y part_row"]
    """From (c, s) of all y to (Re Y, -Im Y) at all rows, padded."""
    columns: Float[Tensor, "part_x column"]
    """From (Re Y, -Im Y) of all x to the values along a row, padded."""


@kept
def _bases(config: FieldConfig, frame: Frame, device: torch.device) -> _Bases:
    size, modes = config.cutoff, config.modes.to(device)
    wide = 2 * size + 1
    cosines = modes[:, 1] * 2 * wide + modes[:, 0] + size
    place = torch.cat(
        [torch.full_like(cosines[:1], size), cosines, cosines + wide]
    )  # a constant: the wave of no length
    places = torch.nn.functional.one_hot(place, (size + 1) * 2 * wide).float()
    cos_y, sin_y = _waves(_padded(frame.down(device)), torch.arange(-size, size + 1, device=device), config.torus)
    rows = torch.cat([torch.cat([cos_y, -sin_y], dim=1), torch.cat([sin_y, cos_y], dim=1)], dim=0)
    cos_x, sin_x = _waves(_padded(frame.across(device)), torch.arange(size + 1, device=device), config.torus)
    return _Bases(places, rows, torch.stack([cos_x, sin_x], dim=1).flatten(0, 1))


def _padded(positions: Float[Tensor, " n"]) -> Float[Tensor, " m"]:
    """To a multiple of four: at odd numbers, MKL's products depend on where in memory a row begins, so on the batch."""
    return torch.nn.functional.pad(positions, (0, -len(positions) % 4))


def _waves(positions: Float[Tensor, " n"], numbers: Int64[Tensor, " k"], torus: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each `[k, n]`."""
    angles = 2 * math.pi / torus * numbers[:, None].to(positions) * positions
    return angles.cos(), angles.sin()
