"""The Haar-affine family: affine maps drawn evenly over the group GL+(2), by polar decomposition."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from viewfold.augment.draws import uniforms_between
from viewfold.augment.frame import Frame
from viewfold.augment.pull_back import undo_polar
from viewfold.augment.transform import Geometric
from viewfold.config import Config, check_ranges


@dataclass(frozen=True, kw_only=True)
class HaarAffineConfig(Config):
    """The bounded part of the group from which maps are drawn; 0 switches a parameter off."""

    rotation_rad: float = math.pi / 6
    """Largest rotation to both sides, in radians; pi is all rotations."""
    log_scale: float = 0.2
    """Largest logarithm of the magnification (half that of the area), to both sides."""
    stretch: float = 0.15
    """Largest half of the logarithmic aspect: at 0.15 a circle becomes an ellipse of up to 1.35 : 1, any way round."""
    translate_ratio: float = 0.05
    """Largest shift along each axis, as a part of the image's side, 0..1."""

    def __post_init__(self) -> None:
        check_ranges(
            self, rotation_rad=(0, math.pi), log_scale=(0, math.log(10)), stretch=(0, 1.5), translate_ratio=(0, 1)
        )


class HaarAffine(Geometric):
    """Moves the content by A = exp(X) R(rotation), X = [[a + b, c], [c, a - b]], drawn from the group's own measure.

    GL+(2) is unimodular and its Haar measure in polar coordinates is const sinh(2 r) dr dpsi da dtheta, with
    (b, c) = r (cos 2 psi, sin 2 psi): rotation, a and psi are uniform and r = 0.5 arccosh(1 + u (cosh(2 r_max) - 1)).
    A uniform r would draw weak stretches too often: multiplying all draws by a fixed map would then change their law.
    """

    is_affine: ClassVar[bool] = True
    names = ("rotation_rad", "log_scale", "stretch_0", "stretch_1", "translate_x_ratio", "translate_y_ratio")

    def __init__(self, config: HaarAffineConfig) -> None:
        self._config = config

    def draw(self, keys: Int64[Tensor, " batch"]) -> Float[Tensor, "batch draw"]:
        """Rotation, a, b, c and the two shifts."""
        config = self._config
        ranges = {
            "haar_rotation": (-config.rotation_rad, config.rotation_rad),
            "haar_log_scale": (-config.log_scale, config.log_scale),
            "haar_radius": (0.0, 1.0),
            "haar_axis": (0.0, 2 * math.pi),
            "haar_shift_x": (-config.translate_ratio, config.translate_ratio),
            "haar_shift_y": (-config.translate_ratio, config.translate_ratio),
        }
        rotation, log_scale, u, axis, x, y = uniforms_between(keys, ranges).unbind(1)
        # sinh(r)^2 = (cosh(2 r) - 1) / 2 keeps the digits that arccosh would lose near 1.
        radius = torch.asinh(u.sqrt() * math.sinh(config.stretch))
        return torch.stack([rotation, log_scale, radius * axis.cos(), radius * axis.sin(), x, y], dim=1)

    def pull_back(
        self, points: Float[Tensor, "batch 2 rows columns"], draws: Float[Tensor, "batch draw"], frame: Frame
    ) -> Float[Tensor, "batch 2 rows columns"]:
        """Where each point is read."""
        rotation, log_scale, stretch_0, stretch_1, x, y = draws[:, :, None, None].unbind(1)
        width, height = frame.extent
        across, down = points[:, 0] - x * width, points[:, 1] - y * height
        return undo_polar(across, down, rotation, log_scale, stretch_0, stretch_1)
