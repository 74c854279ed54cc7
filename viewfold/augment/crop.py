"""The crop family: a random part of the image, stretched to the whole view; with a probability, mirrored."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from viewfold.augment.draws import uniforms, uniforms_between
from viewfold.augment.frame import Frame
from viewfold.augment.transform import Geometric
from viewfold.config import Config, check_ranges


@dataclass(frozen=True, kw_only=True)
class CropConfig(Config):
    """Which part of an image a view shows."""

    area: tuple[float, float] = (0.2, 1.0)
    """Least and largest part of the image's area, above 0 up to 1."""
    log_aspect: float = math.log(4 / 3)
    """Largest logarithm of width over height of the part, to both sides."""
    mirror: float = 0.5
    """Share of the views that are mirrored left to right, 0..1."""

    def __post_init__(self) -> None:
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"area must be two numbers with 0 < least <= largest <= 1, got {self.area}")
        check_ranges(self, log_aspect=(0, math.log(10)), mirror=(0, 1))


class Crop(Geometric):
    """Shows the part of width e^sx and height e^sy whose centre is shifted by t: u(p) = t + (e^sx x, e^sy y).

    The area is uniform, the aspect log-uniform, the place uniform inside the image. A part that would be wider or
    higher than the image is cut to it.
    """

    is_affine: ClassVar[bool] = True
    names = ("log_width", "log_height", "place_x_ratio", "place_y_ratio", "mirrored")

    def __init__(self, config: CropConfig) -> None:
        self._config = config

    def draw(self, keys: Int64[Tensor, " batch"]) -> Float[Tensor, "batch draw"]:
        """Logarithms of the part's width and height, the shift of its centre, and 1 where the view is mirrored."""
        far = self._config.log_aspect
        ranges = {
            "crop_area": self._config.area,
            "crop_log_aspect": (-far, far),
            "place_x": (-1, 1),
            "place_y": (-1, 1),
        }
        area, log_aspect, x, y = uniforms_between(keys, ranges).unbind(1)
        log_width = (0.5 * (area.log() + log_aspect)).clamp(max=0)
        log_height = (0.5 * (area.log() - log_aspect)).clamp(max=0)
        mirrored = uniforms(keys, ["mirrored"])[:, 0] < self._config.mirror
        free_x, free_y = 0.5 * (1 - log_width.exp()), 0.5 * (1 - log_height.exp())
        return torch.stack([log_width, log_height, x * free_x, y * free_y, mirrored.float()], dim=1)

    def pull_back(
        self, points: Float[Tensor, "batch 2 rows columns"], draws: Float[Tensor, "batch draw"], frame: Frame
    ) -> Float[Tensor, "batch 2 rows columns"]:
        """Where each point is read."""
        log_width, log_height, x, y, mirrored = draws[:, :, None, None].unbind(1)
        width, height = frame.extent
        across = x * width + log_width.exp() * (1 - 2 * mirrored) * points[:, 0]
        return torch.stack([across, y * height + log_height.exp() * points[:, 1]], dim=1)
