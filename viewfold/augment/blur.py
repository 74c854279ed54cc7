"""The blur family: a Gaussian of the image's own width."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from viewfold.augment.draws import uniforms, uniforms_between
from viewfold.augment.frame import Frame
from viewfold.augment.rows import change_drawn_rows, on_eager_cpu
from viewfold.augment.transform import Photometric
from viewfold.config import Config, check_ranges

_RADIUS_SIGMAS = 4
_LEAST_WEIGHT = 1e-7
"""Lighter taps are exactly 0: all of them together are less than a rounding of a pixel, and can be skipped."""


@dataclass(frozen=True, kw_only=True)
class BlurConfig(Config):
    """How much views are blurred."""

    sigma_ratio: tuple[float, float] = (0.0005, 0.009)
    """Least and largest standard deviation, uniform between them, as parts of the image's longer side, above 0 up to
    0.1; 0.0005 to 0.009 is 0.1 to 2 pixels of 224."""
    probability: float = 0.5
    """Share of the views that are blurred, 0..1."""

    def __post_init__(self) -> None:
        if not 0 < self.sigma_ratio[0] <= self.sigma_ratio[1] <= 0.1:
            given = f"got {self.sigma_ratio}"
            raise ValueError(f"sigma_ratio must be two numbers with 0 < least <= largest <= 0.1, {given}")
        check_ranges(self, probability=(0, 1))


class Blur(Photometric):
    """Convolves with a Gaussian kernel, borders reflected; the rows where 0 was drawn keep their bits.

    The kernel reaches to 4 standard deviations of the largest configured one, and at most to the opposite border.
    """

    names = ("blur_sigma_ratio",)
    labels: ClassVar[tuple[str, ...]] = names

    def __init__(self, config: BlurConfig) -> None:
        self._config = config

    def draw(self, keys: Int64[Tensor, " batch"]) -> Float[Tensor, "batch 1"]:
        """Standard deviation as a part of the longer side; 0 for the views that are not blurred."""
        chosen = uniforms(keys, ["blur chosen"]) < self._config.probability
        return uniforms_between(keys, {"blur_sigma_ratio": self._config.sigma_ratio}) * chosen

    def apply(
        self, images: Float[Tensor, "batch 3 height width"], draws: Float[Tensor, "batch 1"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Blurred where the draw is not 0."""
        return change_drawn_rows(self._blurred, images, draws)

    def describe(self, draws: Float[Tensor, "batch 1"], frame: Frame) -> Float[Tensor, "batch 1"]:
        """The draws themselves."""
        return draws

    def _blurred(self, images: Tensor, draws: Tensor) -> Tensor:
        height, width = images.shape[2:]
        side = max(height, width)
        radius = math.ceil(_RADIUS_SIGMAS * self._config.sigma_ratio[1] * side)
        blurred = gaussian_blur(images, draws[:, 0] * side, min(radius, height - 1, width - 1))
        return blurred.clamp_(max=1)  # weights sum to 1 up to rounding


def gaussian_blur(
    images: Float[Tensor, "batch channel height width"], sigma: Float[Tensor, " batch"], radius: int
) -> Float[Tensor, "batch channel height width"]:
    """Each image blurred by its own `sigma` in pixels (0 is none) with a kernel of 2 `radius` + 1 taps, which sum to 1.

    Borders are reflected without repeating the outermost pixel, so `radius` is less than height and width.
    """
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    kernels = torch.exp(-0.5 * (offsets / sigma.clamp(min=1e-3)[:, None]).square())
    kernels = kernels / kernels.sum(1, keepdim=True)
    kernels = torch.where(kernels < _LEAST_WEIGHT, 0, kernels)
    if on_eager_cpu(images):
        skipped = int((kernels.amax(0) == 0).sum()) // 2  # at both ends; adding zeros would give the same bits
        kernels = kernels[:, skipped : 2 * radius + 1 - skipped]
    return _convolve(_convolve(images, kernels, axis=2), kernels, axis=3)


def _convolve(images: Tensor, kernels: Float[Tensor, "batch tap"], *, axis: int) -> Tensor:
    """Along one axis, as a sum of shifted images.

    A grouped convolution takes 1 to 9 times as long on a CPU: oneDNN chooses its kernel by the number of rows.
    """
    taps, size = kernels[:, :, None, None, None].unbind(1), images.shape[axis]
    radius = len(taps) // 2
    padding = (radius, radius, 0, 0) if axis == 3 else (0, 0, radius, radius)
    padded = F.pad(images, padding, mode="reflect")
    total = padded.narrow(axis, 0, size) * taps[0]
    for i in range(1, len(taps)):
        total.addcmul_(padded.narrow(axis, i, size), taps[i])
    return total
