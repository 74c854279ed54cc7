"""Settings of the protocols that make a card."""

from dataclasses import dataclass, field
from typing import Literal

from viewfold.config import Config
from viewfold.ssl.evaluate import PairProbeConfig


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """Settings of the protocols."""

    k: int = 5
    """Neighbours that vote."""
    exclude_group: bool = False
    """Nobody of a query's own group votes: for data where the same thing occurs in both splits."""
    bn_mode: Literal["frozen", "official"] = "frozen"
    """What the encoder's BatchNorm does while heads are fitted: `frozen` normalises by what the training left;
    `official` by each batch, as the published probes of SIE."""
    pairs_per_object: int = 24
    """Ordered pairs of views drawn from each object for the probes of rotation and colour."""
    probe: PairProbeConfig = field(default_factory=PairProbeConfig)
    curve_images: int = 128
    """Validation images that the invariance curves and the one-pixel shifts look at; 0 leaves both out."""
    robust_crop: int = 0
    """Side, in pixels, of the crop that is chosen by content alone before encoding, in the one-pixel shifts; 0: none.
    Below the encoder's image size."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.k < 1 or self.pairs_per_object < 1:
            raise ValueError(f"k and pairs_per_object must be at least 1, got {self.k} and {self.pairs_per_object}")
        if self.curve_images < 0:
            raise ValueError(f"curve_images must be 0 or more, got {self.curve_images}")
        if self.robust_crop and (self.robust_crop < 8 or not self.curve_images):
            raise ValueError(f"robust_crop must be 0, or at least 8 with curve_images above 0, got {self.robust_crop}")
