"""The field colour: brightness, contrast, saturation and hue, each a Gaussian random field over the image."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

from jaxtyping import Float, Int64
from torch import Tensor

from viewfold.augment.colour_ops import ColourMode, adjust
from viewfold.augment.fields import FieldConfig
from viewfold.augment.frame import Frame
from viewfold.augment.rows import change_drawn_rows
from viewfold.augment.smooth import draw_smooth, smooth_names, smooth_values
from viewfold.augment.transform import Photometric
from viewfold.config import Config, check_ranges

_FIELDS = ("colour_log_brightness", "colour_log_contrast", "colour_log_saturation", "colour_hue_turns")


@dataclass(frozen=True, kw_only=True)
class FieldColourConfig(Config):
    """How much each parameter varies over an image and between images; standard deviations, 0 switches one off."""

    log_brightness_sd: float = 0.3
    """Of the logarithm of the factor that multiplies the pixels."""
    log_contrast_sd: float = 0.3
    """Of the logarithm of the factor that multiplies the distance from the image's mean luma."""
    log_saturation_sd: float = 0.3
    """Of the logarithm of the factor that multiplies the distance from each pixel's luma."""
    hue_sd: float = 0.06
    """Of the turn of the hue, in turns; it wraps around."""
    global_share: float = 0.0
    """Part of each variance that is one number for the whole image, 0..1: at 1 this is the global adjustment."""
    probability: float = 1.0
    """Share of the views whose colours change, 0..1."""
    mode: ColourMode = "exact"
    """`exact`: brightness, contrast and saturation, each clamped to 0..1, then hue in HSV; `yiq`: one linear map."""
    field: FieldConfig = field(default_factory=lambda: FieldConfig(exponent=5, cutoff=6))
    """At its exponent of 5, waves beyond the sixth hold 0.2 % of the variance."""

    def __post_init__(self) -> None:
        far = math.log(10)
        check_ranges(
            self,
            log_brightness_sd=(0, far),
            log_contrast_sd=(0, far),
            log_saturation_sd=(0, far),
            hue_sd=(0, 0.5),
            global_share=(0, 1),
            probability=(0, 1),
        )


class FieldColour(Photometric):
    """`adjust_exact` or `adjust_yiq` with factors and hue taken at each pixel; contrast stays about the image's mean.

    Views that the probability leaves alone keep their bits.
    """

    labels: ClassVar[tuple[str, ...]] = ("log_brightness", "log_contrast", "log_saturation", "hue_turns")

    def __init__(self, config: FieldColourConfig) -> None:
        self._config = config
        self._sds = (config.log_brightness_sd, config.log_contrast_sd, config.log_saturation_sd, config.hue_sd)
        self.names = smooth_names(_FIELDS, config.field)

    def draw(self, keys: Int64[Tensor, " batch"]) -> Float[Tensor, "batch draw"]:
        """For each field its global term and its coefficients, in its own unit."""
        config = self._config
        return draw_smooth(
            keys,
            dict(zip(_FIELDS, self._sds, strict=True)),
            config.field,
            global_share=config.global_share,
            probability=config.probability,
        )

    def apply(
        self, images: Float[Tensor, "batch 3 height width"], draws: Float[Tensor, "batch draw"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """The fields are evaluated at every pixel's centre. What the configuration switches off is not looked at."""
        return change_drawn_rows(self._adjusted, images, draws)

    def describe(self, draws: Float[Tensor, "batch draw"], frame: Frame) -> Float[Tensor, "batch 4"]:
        """Each field's mean over the nodes of the frame."""
        return self._values(draws, frame).mean(3).mean(2)

    def _adjusted(self, images: Tensor, draws: Tensor) -> Tensor:
        config, frame = self._config, Frame.pixels(images.shape[2], images.shape[3])
        colourful, turning = config.log_saturation_sd > 0, config.hue_sd > 0
        return adjust(images, self._values(draws, frame), config.mode, saturation=colourful, hue=turning)

    def _values(self, draws: Tensor, frame: Frame) -> Float[Tensor, "batch 4 rows columns"]:
        return smooth_values(draws, frame, self._config.field)
