"""What a predictor is: the embedding of one view and a transformation in, the embedding of the other view out."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from viewfold.config import Config


class PredictorConfig(Config):
    """Base of the predictors' configurations; each declares `name` as the Literal of its line in `PREDICTORS`."""

    name: str


class Predictor(nn.Module, ABC):
    """Abstract: predicts how an embedding changes under a transformation of `num_params` numbers.

    A new one is one file and one line of `PREDICTORS`.
    """

    config_class: ClassVar[type[PredictorConfig]]

    @classmethod
    @abstractmethod
    def build(cls, config: Any, dim: int, num_params: int) -> "Predictor":
        """Of embeddings of width `dim`, from a `config_class`; weights are drawn from torch's global generator."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "batch dim"], z: Float[Tensor, "batch k"]) -> Float[Tensor, "batch dim"]:
        """The embedding that row `x` has after the transformation `z`."""
