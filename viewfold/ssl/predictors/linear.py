"""SIE's predictor: a matrix that is linear in the transformation (arXiv:2302.10283, section 3)."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from viewfold.ssl.predictors.predictor import Predictor, PredictorConfig


@dataclass(frozen=True, kw_only=True)
class LinearPredictorConfig(PredictorConfig):
    """W(z) x, with W linear in z."""

    name: Literal["linear"] = "linear"
    bias: bool = False
    """Add a matrix that does not depend on z. The published one has none: z = 0 predicts 0, and -z the opposite."""
    gain: float = 1.0
    """Of the initial weights, which are uniform in +-gain/sqrt(k); 1 is the published initialisation."""

    def __post_init__(self) -> None:
        if self.gain < 0:
            raise ValueError(f"gain must be 0 or more, got {self.gain}")


class LinearPredictor(Predictor):
    """Predicts the transformed embedding as W(z) x, a matrix that is linear in the transformation z.

    Without bias it is bilinear, so the sign convention of z must be one everywhere. The initial weights follow torch's
    rule for a linear layer that takes z (k values): for unit z, an untrained prediction is then about sqrt(dim / (3 k))
    times as large as x.
    """

    config_class = LinearPredictorConfig

    def __init__(self, dim: int, num_params: int, *, bias: bool = False, gain: float = 1.0) -> None:
        super().__init__()
        bound = gain / math.sqrt(num_params)
        self.weight = nn.Parameter(torch.empty(dim, dim, num_params).uniform_(-bound, bound))
        """`[out, in, k]`: W(z)[i, j] is the sum over k of weight[i, j, k] z[k]."""
        self.bias = nn.Parameter(torch.empty(dim, dim).uniform_(-bound, bound)) if bias else None
        """`[out, in]`: added to W(z)."""

    @classmethod
    def build(cls, config: LinearPredictorConfig, dim: int, num_params: int) -> "LinearPredictor":
        return cls(dim, num_params, bias=config.bias, gain=config.gain)

    def forward(self, x: Float[Tensor, "batch dim"], z: Float[Tensor, "batch k"]) -> Float[Tensor, "batch dim"]:
        """W(z) x for each row."""
        return hypernetwork_product(x, z, self.weight, self.bias)


def hypernetwork_product(
    x: Float[Tensor, "batch fan_in"],
    z: Float[Tensor, "batch k"],
    weight: Float[Tensor, "fan_out fan_in k"],
    bias: Float[Tensor, "fan_out fan_in"] | None,
) -> Float[Tensor, "batch fan_out"]:
    """W(z) x for each row, where W(z)[i, j] is the sum over k of weight[i, j, k] z[k], plus bias[i, j]."""
    # One matrix product with x (outer) z: the out x in matrix of a row (4 MB at 1024) is never made.
    outer = (x[:, :, None] * z[:, None, :]).flatten(1)
    product = F.linear(outer, weight.flatten(1))
    return product if bias is None else product + F.linear(x, bias)
