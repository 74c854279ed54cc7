"""The field warp: translation, rotation, scale and shear, each a Gaussian random field of the image's coordinates."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from jaxtyping import Float, Int64
from torch import Tensor

from viewfold.augment.fields import FieldConfig, gradient_sd
from viewfold.augment.frame import Frame
from viewfold.augment.pull_back import undo_polar, undo_shear
from viewfold.augment.smooth import draw_smooth, smooth_names, smooth_values
from viewfold.augment.transform import Geometric
from viewfold.config import Config, check_ranges

FOLD_BUDGET = 0.20
"""Largest `gradient_budget` at which no image was seen to fold; with rough fields (exponent 4) a fifth do at 0.36."""
_TYPICAL_RADIUS = 0.5
"""Distance from the centre, in sides, at which rotation, scale and shear are counted."""


@dataclass(frozen=True, kw_only=True)
class FieldWarpConfig(Config):
    """How much each parameter varies over an image and between images; standard deviations, 0 switches one off."""

    translate_sd: float = 0.02
    """Of the shifts along x and y, as parts of the image's width and height."""
    rotation_sd: float = 0.05
    """Of the rotation, in radians."""
    log_scale_sd: float = 0.05
    """Of the logarithms of the magnification: along x and y (`shear`), or of the area's square root (`polar`)."""
    shear_sd: float = 0.04
    """Of the shear angle in radians (`shear`), or of the components of half the logarithmic aspect (`polar`)."""
    form: Literal["shear", "polar"] = "shear"
    """How a point's matrix is built: rotation . scales . shear, or exp(symmetric) . rotation, without singularity."""
    global_share: float = 0.0
    """Part of each variance that is one number for the whole image, 0..1: at 1 this is the global transformation."""
    probability: float = 1.0
    """Share of the views that are warped."""
    field: FieldConfig = field(default_factory=lambda: FieldConfig(cutoff=4))
    """At its exponent of 8, waves beyond the fourth hold 0.007 % of the variance."""

    def __post_init__(self) -> None:
        check_ranges(
            self,
            translate_sd=(0, 1),
            rotation_sd=(0, math.pi),
            log_scale_sd=(0, 1),
            shear_sd=(0, 1),
            global_share=(0, 1),
            probability=(0, 1),
        )

    @property
    def gradient_budget(self) -> float:
        """Standard deviation of the displacement's gradient, all parameters together; see `FOLD_BUDGET`.

        g^2 = sum of (sd G)^2 for each shift and sd^2 (1 + (r G)^2) for the others, where G is that of a unit field.
        """
        steepness = gradient_sd(self.field)
        about_centre = 1 + (_TYPICAL_RADIUS * steepness) ** 2
        shifts = 2 * (self.translate_sd * steepness) ** 2
        shears = self.shear_sd**2 * (2 if self.form == "polar" else 1)
        scales = self.log_scale_sd**2 * (1 if self.form == "polar" else 2)
        others = (self.rotation_sd**2 + scales + shears) * about_centre
        return math.sqrt((1 - self.global_share) * (shifts + others))


class FieldWarp(Geometric):
    """Reads the view's point p at u(p) = c + A(p)^-1 (p - c - t(p)): parameters are taken at p, c is the centre.

    A = R S Sh as for `Affine` with the form `shear`, exp(X) R as for `HaarAffine` with `polar`. A backward map: nothing
    is inverted, and constant fields are exactly the global transformation. It is the last geometric family of a policy,
    for its fields are evaluated on the view's own nodes.
    """

    is_affine: ClassVar[bool] = False

    def __init__(self, config: FieldWarpConfig) -> None:
        self.config = config
        polar = config.form == "polar"
        scales = ("log_scale", "stretch_0", "stretch_1") if polar else ("log_scale_x", "log_scale_y", "shear_rad")
        self.fields = ("translate_x_ratio", "translate_y_ratio", "rotation_rad", *scales)
        self._sds = (
            *(config.translate_sd,) * 2,
            config.rotation_sd,
            config.log_scale_sd,
            config.shear_sd if polar else config.log_scale_sd,
            config.shear_sd,
        )
        self.names = smooth_names(self.fields, config.field)

    def draw(self, keys: Int64[Tensor, " batch"]) -> Float[Tensor, "batch draw"]:
        """For each field its global term and its coefficients, in its own unit."""
        config = self.config
        return draw_smooth(
            keys,
            dict(zip(self.fields, self._sds, strict=True)),
            config.field,
            global_share=config.global_share,
            probability=config.probability,
        )

    def pull_back(
        self, points: Float[Tensor, "batch 2 rows columns"], draws: Float[Tensor, "batch draw"], frame: Frame
    ) -> Float[Tensor, "batch 2 rows columns"]:
        """Where each node is read; `points` are the nodes of the frame."""
        return self.undo(points, smooth_values(draws, frame, self.config.field), frame)

    def undo(
        self, points: Float[Tensor, "batch 2 *shape"], values: Float[Tensor, "batch 6 *shape"], frame: Frame
    ) -> Float[Tensor, "batch 2 *shape"]:
        """Where points are read, given the value of each of `fields` at them."""
        shift_x, shift_y, rotation, *others = values.unbind(1)
        width, height = frame.extent
        x, y = points[:, 0] - shift_x * width, points[:, 1] - shift_y * height
        undo = undo_polar if self.config.form == "polar" else undo_shear
        return undo(x, y, rotation, *others)
