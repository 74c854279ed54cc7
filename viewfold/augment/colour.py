"""The colour family: brightness, contrast and grey, executed by Kornia."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from viewfold.augment.kornia_ops import color_jitter, random_grayscale
from viewfold.augment.params import draw_columns, unit_column
from viewfold.augment.transform import Transform
from viewfold.config import Config


@dataclass(frozen=True, kw_only=True)
class ColourConfig(Config):
    """How far each colour parameter is drawn; 0 switches one off."""

    log_brightness: float = 0.3
    """Largest logarithm of the factor that multiplies the pixels, to both sides; 0.3 is 0.74 to 1.35."""
    log_contrast: float = 0.3
    """Largest logarithm of the factor that multiplies the distance from the image's mean luma, to both sides."""
    grayscale: float = 0.2
    """Share of the views that lose their colour, 0..1."""

    def __post_init__(self) -> None:
        limits = {"log_brightness": math.log(10), "log_contrast": math.log(10), "grayscale": 1.0}
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) <= limit:
                raise ValueError(f"{name} must lie in 0..{limit:.4g}, got {getattr(self, name)}")


class Colour(Transform):
    """Brightness, then contrast, each clamped to 0..1, then grey (luma in all three channels) where it was drawn.

    Factors are held as logarithms and grey as 0 or 1, so that 0 is the identity in every column.
    """

    names: ClassVar[tuple[str, ...]] = ("log_brightness", "log_contrast", "grayscale")

    def __init__(self, config: ColourConfig) -> None:
        self._config = config

    def draw(self, keys: NDArray[np.uint64]) -> NDArray[np.float64]:
        """The two logarithms uniform to both sides of 0; grey is 1 for the configured share of the keys."""
        reach = {"log_brightness": self._config.log_brightness, "log_contrast": self._config.log_contrast}
        factors = draw_columns(keys, {name: (-far, far) for name, far in reach.items()})
        return np.column_stack([factors, unit_column(keys, "grayscale") < self._config.grayscale])

    def apply(self, images: Float[Tensor, "batch 3 height width"], params: Float[Tensor, "batch 3"]) -> Tensor:
        """Rows whose grey is 0 keep their colour bit for bit."""
        log_brightness, log_contrast, gray = params.unbind(1)
        jitter = {
            "brightness_factor": log_brightness.exp(),
            "contrast_factor": log_contrast.exp(),
            "saturation_factor": torch.ones_like(gray),
            "hue_factor": torch.zeros_like(gray),
            "order": torch.arange(4),
        }
        jittered = color_jitter()(images, params=jitter)
        return random_grayscale()(jittered, params={"batch_prob": gray})
