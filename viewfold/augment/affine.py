"""The affine family: rotation, scale, shear and translation about the image's centre, executed by Kornia."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from viewfold.augment.kornia_ops import random_affine
from viewfold.augment.params import draw_columns
from viewfold.augment.transform import Transform
from viewfold.config import Config


@dataclass(frozen=True, kw_only=True)
class AffineConfig(Config):
    """How far each parameter is drawn, uniformly to both sides of the identity; 0 switches one off."""

    rotation_rad: float = math.pi / 6
    """Largest rotation, in radians, 0..pi; positive turns the displayed image clockwise."""
    log_scale: float = 0.2
    """Largest logarithm of the magnification, the same along both axes; 0.2 is 0.82 to 1.22."""
    shear_rad: float = 0.1
    """Largest shear angle along x, in radians, below pi/2."""
    translate_ratio: float = 0.1
    """Largest shift along each axis, as a part of the image's side, 0..1."""

    def __post_init__(self) -> None:
        limits = {"rotation_rad": math.pi, "log_scale": math.log(10), "shear_rad": 1.5, "translate_ratio": 1.0}
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) <= limit:
                raise ValueError(f"{name} must lie in 0..{limit:.4g}, got {getattr(self, name)}")


class Affine(Transform):
    """Warps by `shift . rotate . scale . shear`, about the centre, with reflected borders.

    Scale is held as its logarithm, so that 0 is the identity in every column.
    """

    names: ClassVar[tuple[str, ...]] = (
        "rotation_rad",
        "log_scale",
        "shear_rad",
        "translate_x_ratio",
        "translate_y_ratio",
    )

    def __init__(self, config: AffineConfig) -> None:
        shift = config.translate_ratio
        self._reach = (config.rotation_rad, config.log_scale, config.shear_rad, shift, shift)

    def draw(self, keys: NDArray[np.uint64]) -> NDArray[np.float64]:
        """Each column uniform between minus and plus its configured reach."""
        return draw_columns(keys, {name: (-far, far) for name, far in zip(self.names, self._reach, strict=True)})

    def apply(self, images: Float[Tensor, "batch 3 height width"], params: Float[Tensor, "batch 5"]) -> Tensor:
        """Values stay within the range of the input: bilinear weights are a mean."""
        return random_affine()(images, params=kornia_affine(params, height=images.shape[-2], width=images.shape[-1]))


def kornia_affine(params: Float[Tensor, "batch 5"], *, height: int, width: int) -> dict[str, Tensor]:
    """Our columns as `RandomAffine` takes them: degrees, pixels, factors, the centre as (x, y) of pixel centres."""
    rotation, log_scale, shear, shift_x, shift_y = params.unbind(1)
    centre = params.new_tensor([(width - 1) / 2, (height - 1) / 2])
    return {
        "angle": rotation.rad2deg(),
        "scale": log_scale.exp()[:, None].expand(-1, 2),
        "shear_x": shear.rad2deg(),
        "shear_y": torch.zeros_like(shear),
        "translations": torch.stack([shift_x * width, shift_y * height], dim=1),
        "center": centre.expand(len(params), 2),
    }
