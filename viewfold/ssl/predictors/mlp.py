"""A predictor that is told the transformation as a part of its input: an ordinary MLP."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from viewfold.ssl.predictors.predictor import Predictor, PredictorConfig


@dataclass(frozen=True, kw_only=True)
class MLPPredictorConfig(PredictorConfig):
    """An MLP of the transformation and the embedding, with biases and as wide as the embedding."""

    name: Literal["mlp"] = "mlp"
    num_layers: int = 1
    """Linear layers, with ReLU between them; with 1 the transformation only adds a vector to a product with x."""

    def __post_init__(self) -> None:
        if self.num_layers < 1:
            raise ValueError(f"num_layers must be 1 or more, got {self.num_layers}")


class MLPPredictor(Predictor):
    """Predicts the transformed embedding from [z ; x], the transformation first."""

    config_class = MLPPredictorConfig

    def __init__(self, dim: int, num_params: int, *, num_layers: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(num_params + dim, dim)]
        for _ in range(num_layers - 1):
            layers += [nn.ReLU(), nn.Linear(dim, dim)]
        self.layers = nn.Sequential(*layers)

    @classmethod
    def build(cls, config: MLPPredictorConfig, dim: int, num_params: int) -> "MLPPredictor":
        return cls(dim, num_params, num_layers=config.num_layers)

    def forward(self, x: Float[Tensor, "batch dim"], z: Float[Tensor, "batch k"]) -> Float[Tensor, "batch dim"]:
        """The MLP's output for each row."""
        predicted: Tensor = self.layers(torch.cat([z, x], dim=1))
        return predicted
