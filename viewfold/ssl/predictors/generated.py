"""A network of several layers whose weights are all linear in the transformation (SIE, arXiv:2302.10283)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from viewfold.ssl.predictors.linear import hypernetwork_product
from viewfold.ssl.predictors.predictor import Predictor, PredictorConfig


@dataclass(frozen=True, kw_only=True)
class GeneratedPredictorConfig(PredictorConfig):
    """Layers dim -> hidden_widths -> dim, whose weights are generated from z."""

    name: Literal["generated"] = "generated"
    hidden_widths: tuple[int, ...] = (256,)
    """Outputs of each generated layer but the last; at least one, for `linear` is the predictor without."""
    relu: bool = False
    """A ReLU after each of those; without, the layers are one matrix whose entries are polynomials in z."""
    generated_bias: bool = False
    """Each generated layer has a bias as well, which is generated like its weights."""
    bias: bool = False
    """Add to what is generated numbers that do not depend on z."""

    def __post_init__(self) -> None:
        if not self.hidden_widths or min(self.hidden_widths) < 1:
            raise ValueError(f"hidden_widths must be one or more widths of at least 1, got {self.hidden_widths}")


class GeneratedPredictor(Predictor):
    """Predicts the transformed embedding by a small network of x whose parameters are a linear function of z.

    The parameters of the small network stand in one row: layer by layer its weights, `[out, in]` row-major, and then
    its bias where it has one.
    """

    config_class = GeneratedPredictorConfig

    def __init__(self, config: GeneratedPredictorConfig, dim: int, num_params: int) -> None:
        super().__init__()
        self.config = config
        self._shapes = [(out, fan_in) for fan_in, out in pairwise((dim, *config.hidden_widths, dim))]
        num_generated = sum(out * (fan_in + config.generated_bias) for out, fan_in in self._shapes)
        bound = 1 / math.sqrt(num_params)
        self.weight = nn.Parameter(torch.empty(num_generated, num_params).uniform_(-bound, bound))
        """`[generated, k]`: the small network's parameters are weight z."""
        self.bias = nn.Parameter(torch.empty(num_generated).uniform_(-bound, bound)) if config.bias else None
        """`[generated]`: added to them."""

    @classmethod
    def build(cls, config: GeneratedPredictorConfig, dim: int, num_params: int) -> "GeneratedPredictor":
        return cls(config, dim, num_params)

    def forward(self, x: Float[Tensor, "batch dim"], z: Float[Tensor, "batch k"]) -> Float[Tensor, "batch dim"]:
        """The output of the network that each row's z generates, for that row of `x`."""
        blocks = self._blocks()
        for number, (out, fan_in) in enumerate(self._shapes):
            if number > 0 and self.config.relu:
                x = F.relu(x)
            weight, bias = next(blocks)
            # Linear in z like the linear predictor, so the generated matrices are never made either.
            x = hypernetwork_product(x, z, weight.view(out, fan_in, -1), None if bias is None else bias.view(out, -1))
            if self.config.generated_bias:
                x = x + F.linear(z, *next(blocks))
        return x

    def _blocks(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """What makes the weights of each layer, and then its bias where it has one: rows of `weight` and of `bias`."""
        sizes = [n for out, fan_in in self._shapes for n in (out * fan_in, out * self.config.generated_bias) if n > 0]
        weights = torch.split(self.weight, sizes)
        biases = (None,) * len(sizes) if self.bias is None else torch.split(self.bias, sizes)
        yield from zip(weights, biases, strict=True)
