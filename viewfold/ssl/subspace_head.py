"""The head that coding rates are taken on: an MLP, and linear maps of its output onto the unit sphere.

One map gives the features Z, which are to fill a union of subspaces. A second of the same shape gives the codes C,
whose inner products say which samples belong together; with one head the codes are the features.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from viewfold.config import Config, check_ranges
from viewfold.ssl.batchnorm import each_view
from viewfold.ssl.precision import in_float32


@dataclass(frozen=True, kw_only=True)
class SubspaceHeadConfig(Config):
    """All that a subspace head is built from."""

    part: str
    """The part of the features that it reads."""
    part_dim: int
    """Width of that part."""
    hidden_widths: tuple[int, ...]
    """Of the trunk's layers, each a linear map, BatchNorm and ReLU; none for linear heads on the bare features."""
    dim: int
    """Width of the features Z and of the codes C."""
    heads: Literal["one", "two"] = "two"
    """`one`: the codes are the features. `two`: they have a linear map of their own."""

    def __post_init__(self) -> None:
        check_ranges(self, part_dim=(1, math.inf), dim=(2, math.inf))
        if any(width < 1 for width in self.hidden_widths):
            raise ValueError(f"hidden_widths must be widths of at least 1, got {self.hidden_widths}")


class SubspaceHead(nn.Module):
    """Features and codes of unit length from one part of an encoder's features."""

    def __init__(self, config: SubspaceHeadConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        width = config.part_dim
        for hidden in config.hidden_widths:
            layers += [nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]
            width = hidden
        self.trunk = nn.Sequential(*layers)
        self.feature = nn.Linear(width, config.dim)
        self.cluster = nn.Linear(width, config.dim) if config.heads == "two" else None

    def forward(
        self, features: Float[Tensor, "... {self.config.part_dim}"]
    ) -> tuple[Float[Tensor, "... {self.config.dim}"], Float[Tensor, "... {self.config.dim}"]]:
        """(Z, C) of `[batch, part_dim]` or `[view, batch, part_dim]`; BatchNorm takes each view on its own.

        Rows have length 1, in float32 at least. With one head C is Z, the same tensor.
        """
        return self.project(self.hidden(features))

    def hidden(self, features: Float[Tensor, "... part_dim"]) -> Float[Tensor, "... width"]:
        """What the linear maps read: the trunk's output."""
        hidden: Tensor = each_view(self.trunk, features) if features.dim() == 3 else self.trunk(features)
        return hidden

    def project(
        self, hidden: Float[Tensor, "... width"]
    ) -> tuple[Float[Tensor, "... {self.config.dim}"], Float[Tensor, "... {self.config.dim}"]]:
        """(Z, C) of what the trunk gave."""
        z = unit_rows(self.feature(hidden))
        return z, z if self.cluster is None else unit_rows(self.cluster(hidden))

    @torch.no_grad()
    def copy_feature_head(self) -> None:
        """Make the codes equal to the features: the membership then begins as that of the features.

        Before an optimizer has begun: engines keep copies of the weights, which this would not reach.
        """
        if self.cluster is not None:
            self.cluster.load_state_dict(self.feature.state_dict())


@in_float32
def unit_rows(x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
    """`x` with its last dimension scaled to length 1, in float32 at least; a row of zeros stays one."""
    return F.normalize(x, dim=-1)
