"""The equivariant head: an embedding of one part of the features, and a predictor of how a transformation moves it.

Training throws it away with the other heads, but the measurements of equivariance need it, so it is kept beside the
encoder: `ssl.kept_head`.
"""

from dataclasses import dataclass
from typing import Annotated

from jaxtyping import Float
from torch import Tensor, nn

from viewfold.config import Config, chosen
from viewfold.ssl.heads import expander
from viewfold.ssl.predictors import PREDICTOR_CONFIGS, PredictorConfig, build_predictor


@dataclass(frozen=True, kw_only=True)
class HeadConfig(Config):
    """All that a head is built from."""

    part: str
    """The part of the features that it embeds."""
    part_dim: int
    """Width of that part."""
    transformation: str
    """The relation of two views that it follows, a name of `RELATIONS`."""
    num_params: int
    """Numbers in such a transformation."""
    widths: tuple[int, ...]
    """Of the expander: hidden layers, then the embedding."""
    predictor: Annotated[PredictorConfig, chosen("predictor", PREDICTOR_CONFIGS)]


class EquivariantHead(nn.Module):
    """Embeds features, and predicts the embedding of a view from that of another and what lies between them."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = expander(config.part_dim, config.widths)
        self.predict = build_predictor(config.predictor, dim=config.widths[-1], num_params=config.num_params)

    def forward(self, features: Float[Tensor, "batch part_dim"], z: Float[Tensor, "batch k"]) -> Tensor:
        """`[batch, dim]`: the predicted embedding of the view that `z` leads to."""
        predicted: Tensor = self.predict(self.embed(features), z)
        return predicted
