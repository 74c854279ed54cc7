"""The colour family: brightness, contrast, saturation and hue, one number of each for the whole image."""

import math
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int64
from torch import Tensor

from viewfold.augment.colour_ops import ColourMode, adjust
from viewfold.augment.draws import uniforms, uniforms_between
from viewfold.augment.frame import Frame
from viewfold.augment.rows import change_drawn_rows
from viewfold.augment.transform import Photometric
from viewfold.config import Config, check_ranges


@dataclass(frozen=True, kw_only=True)
class ColourConfig(Config):
    """How far each colour parameter is drawn, uniformly to both sides of the identity; 0 switches one off."""

    log_brightness: float = 0.3
    """Largest logarithm of the factor that multiplies the pixels; 0.3 is 0.74 to 1.35."""
    log_contrast: float = 0.3
    """Largest logarithm of the factor that multiplies the distance from the image's mean luma."""
    log_saturation: float = 0.0
    """Largest logarithm of the factor that multiplies the distance from each pixel's luma."""
    hue_turns: float = 0.0
    """Largest turn of the hue, 0..0.5: half a turn is the complementary colour."""
    probability: float = 1.0
    """Share of the views whose colours change, 0..1."""
    mode: ColourMode = "exact"
    """`exact`: brightness, contrast and saturation, each clamped to 0..1, then hue in HSV; `yiq`: one linear map."""

    def __post_init__(self) -> None:
        far = math.log(10)
        check_ranges(
            self,
            log_brightness=(0, far),
            log_contrast=(0, far),
            log_saturation=(0, far),
            hue_turns=(0, 0.5),
            probability=(0, 1),
        )


class Colour(Photometric):
    """`adjust_exact` or `adjust_yiq` with factors held as logarithms, so that 0 is the identity in every column.

    Views that the probability leaves alone keep their bits.
    """

    names = ("log_brightness", "log_contrast", "log_saturation", "hue_turns")
    labels: ClassVar[tuple[str, ...]] = names

    def __init__(self, config: ColourConfig) -> None:
        self._config = config
        self._reach = (config.log_brightness, config.log_contrast, config.log_saturation, config.hue_turns)

    def draw(self, keys: Int64[Tensor, " batch"]) -> Float[Tensor, "batch 4"]:
        """Each column uniform between minus and plus its configured reach."""
        ranges = {name: (-far, far) for name, far in zip(self.names, self._reach, strict=True)}
        chosen = uniforms(keys, ["colour chosen"]) < self._config.probability
        return uniforms_between(keys, ranges) * chosen

    def apply(
        self, images: Float[Tensor, "batch 3 height width"], draws: Float[Tensor, "batch 4"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """What the configuration switches off is not looked at."""
        return change_drawn_rows(self._adjusted, images, draws)

    def describe(self, draws: Float[Tensor, "batch 4"], frame: Frame) -> Float[Tensor, "batch 4"]:
        """The draws themselves."""
        return draws

    def _adjusted(self, images: Tensor, draws: Tensor) -> Tensor:
        config = self._config
        colourful, turning = config.log_saturation > 0, config.hue_turns > 0
        return adjust(images, draws[:, :, None, None], config.mode, saturation=colourful, hue=turning)
