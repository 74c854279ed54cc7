"""The solarize family: in some views the bright pixels are inverted."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int64
from torch import Tensor

from viewfold.augment.draws import uniforms
from viewfold.augment.frame import Frame
from viewfold.augment.kornia_ops import solarize
from viewfold.augment.rows import change_drawn_rows
from viewfold.augment.transform import Photometric
from viewfold.config import Config, check_ranges


@dataclass(frozen=True, kw_only=True)
class SolarizeConfig(Config):
    """Which pixels of how many views are inverted."""

    threshold: float = 0.5
    """Values from here on, 0..1, become one minus themselves, in each channel on its own."""
    probability: float = 0.2
    """Share of the views that are solarized, 0..1."""

    def __post_init__(self) -> None:
        check_ranges(self, threshold=(0, 1), probability=(0, 1))


class Solarize(Photometric):
    """Inverts what is not below the threshold where 1 was drawn; the other rows keep their bits. Needs kornia."""

    names = ("solarized",)
    labels: ClassVar[tuple[str, ...]] = names

    def __init__(self, config: SolarizeConfig) -> None:
        self._config = config

    def draw(self, keys: Int64[Tensor, " batch"]) -> Float[Tensor, "batch 1"]:
        """1 for the configured share of the keys, else 0."""
        return (uniforms(keys, self.names) < self._config.probability).float()

    def apply(
        self, images: Float[Tensor, "batch 3 height width"], draws: Float[Tensor, "batch 1"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Solarized where the draw is not 0."""
        return change_drawn_rows(lambda drawn, _: solarize(drawn, self._config.threshold), images, draws)

    def describe(self, draws: Float[Tensor, "batch 1"], frame: Frame) -> Float[Tensor, "batch 1"]:
        """The draws themselves."""
        return draws
