"""The affine family: rotation, scale, shear and translation about the image's centre, drawn uniformly."""

import math
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int64
from torch import Tensor

from viewfold.augment.draws import uniforms_between
from viewfold.augment.frame import Frame
from viewfold.augment.pull_back import undo_shear
from viewfold.augment.transform import Geometric
from viewfold.config import Config, check_ranges


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
        check_ranges(
            self, rotation_rad=(0, math.pi), log_scale=(0, math.log(10)), shear_rad=(0, 1.5), translate_ratio=(0, 1)
        )


class Affine(Geometric):
    """Moves the content by A = shift . rotate . scale . shear about the centre: u(p) = c + A^-1 (p - c - t).

    Scale is held as its logarithm, so that 0 is the identity in every column.
    """

    is_affine: ClassVar[bool] = True
    names = ("rotation_rad", "log_scale", "shear_rad", "translate_x_ratio", "translate_y_ratio")

    def __init__(self, config: AffineConfig) -> None:
        shift = config.translate_ratio
        self._reach = (config.rotation_rad, config.log_scale, config.shear_rad, shift, shift)

    def draw(self, keys: Int64[Tensor, " batch"]) -> Float[Tensor, "batch draw"]:
        """Each column uniform between minus and plus its configured reach."""
        return uniforms_between(keys, {name: (-far, far) for name, far in zip(self.names, self._reach, strict=True)})

    def pull_back(
        self, points: Float[Tensor, "batch 2 rows columns"], draws: Float[Tensor, "batch draw"], frame: Frame
    ) -> Float[Tensor, "batch 2 rows columns"]:
        """Where each point is read."""
        rotation, scale, shear, shift_x, shift_y = draws[:, :, None, None].unbind(1)
        width, height = frame.extent
        x, y = points[:, 0] - shift_x * width, points[:, 1] - shift_y * height
        return undo_shear(x, y, rotation, scale, scale, shear)
