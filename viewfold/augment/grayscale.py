"""The grayscale family: some views lose their colour."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int64
from torch import Tensor

from viewfold.augment.colour_ops import luma
from viewfold.augment.draws import uniforms
from viewfold.augment.frame import Frame
from viewfold.augment.rows import change_drawn_rows
from viewfold.augment.transform import Photometric
from viewfold.config import Config, check_ranges


@dataclass(frozen=True, kw_only=True)
class GrayscaleConfig(Config):
    """How many views lose their colour."""

    probability: float = 0.2
    """Share of the views that are grey, 0..1."""

    def __post_init__(self) -> None:
        check_ranges(self, probability=(0, 1))


class Grayscale(Photometric):
    """Luma (0.299, 0.587, 0.114) in all three channels where 1 was drawn; the other rows keep their bits."""

    names = ("grayscale",)
    labels: ClassVar[tuple[str, ...]] = names

    def __init__(self, config: GrayscaleConfig) -> None:
        self._config = config

    def draw(self, keys: Int64[Tensor, " batch"]) -> Float[Tensor, "batch 1"]:
        """1 for the configured share of the keys, else 0."""
        return (uniforms(keys, self.names) < self._config.probability).float()

    def apply(
        self, images: Float[Tensor, "batch 3 height width"], draws: Float[Tensor, "batch 1"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Grey where the draw is not 0."""
        return change_drawn_rows(lambda drawn, _: luma(drawn).repeat(1, 3, 1, 1), images, draws)

    def describe(self, draws: Float[Tensor, "batch 1"], frame: Frame) -> Float[Tensor, "batch 1"]:
        """The draws themselves."""
        return draws
