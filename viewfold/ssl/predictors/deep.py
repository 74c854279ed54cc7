"""SIE's deep hypernetwork: a matrix that a small network makes of the transformation (arXiv:2302.10283)."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from viewfold.ssl.predictors.linear import LinearPredictor
from viewfold.ssl.predictors.predictor import Predictor, PredictorConfig


@dataclass(frozen=True, kw_only=True)
class DeepPredictorConfig(PredictorConfig):
    """W(z) x, with W from a network of three layers, k -> k -> k -> dim x dim and ReLU between them."""

    name: Literal["deep"] = "deep"
    bias: bool = False
    """In all three layers. The published one has none: z = 0 predicts 0."""


class DeepPredictor(Predictor):
    """Predicts the transformed embedding as W(z) x, with a W that bends with the transformation z.

    W is linear in the last hidden layer, which is as narrow as z: it costs hardly more than the linear predictor.
    """

    config_class = DeepPredictorConfig

    def __init__(self, dim: int, num_params: int, *, bias: bool = False) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Linear(num_params, num_params, bias=bias),
            nn.ReLU(),
            nn.Linear(num_params, num_params, bias=bias),
            nn.ReLU(),
        )
        self.matrix = LinearPredictor(dim, num_params, bias=bias)

    @classmethod
    def build(cls, config: DeepPredictorConfig, dim: int, num_params: int) -> "DeepPredictor":
        return cls(dim, num_params, bias=config.bias)

    def forward(self, x: Float[Tensor, "batch dim"], z: Float[Tensor, "batch k"]) -> Float[Tensor, "batch dim"]:
        """W(z) x for each row."""
        predicted: Tensor = self.matrix(x, self.hidden(z))
        return predicted
