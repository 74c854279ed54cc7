"""VICReg: two views' embeddings agree, vary in every dimension, and no two dimensions say the same (arXiv:2105.04906).

The weights are those of SIE's comparison (arXiv:2302.10283), not VICReg's own 25, 25, 1.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.config import check_ranges
from viewfold.ssl.batchnorm import each_view
from viewfold.ssl.dist import gather_rows
from viewfold.ssl.encoder import Encoder
from viewfold.ssl.heads import check_widths, expander
from viewfold.ssl.losses import covariance_loss, invariance_loss, variance_hinge
from viewfold.ssl.methods.method import Method, MethodConfig, Outcome, Task, by_part
from viewfold.ssl.methods.view_pairs import check_views, pairs, view_features
from viewfold.values import Views


@dataclass(frozen=True, kw_only=True)
class VICRegConfig(MethodConfig):
    """Weights and widths of VICReg; the defaults are those of SIE's comparison."""

    name: Literal["vicreg"] = "vicreg"
    expander_widths: tuple[int, ...] = (2048, 2048, 2048)
    """Of the expander: hidden layers, then the embedding."""
    free_dims: int = 0
    """Trailing dimensions of the embedding that the invariance leaves free, while variance and covariance hold for all.
    With some of them it is partial invariance (SIE's VICRegPartInv)."""
    invariance: float = 10.0
    """Weight of the distance between the two views' embeddings."""
    variance: float = 10.0
    """Weight of the variance hinges, half on each view."""
    covariance: float = 1.0
    """Weight of the covariances, summed over the two views."""

    def __post_init__(self) -> None:
        check_widths(self.expander_widths)
        check_ranges(self, free_dims=(0, self.expander_widths[-1] - 1))
        check_ranges(self, **dict.fromkeys(("invariance", "variance", "covariance"), (0, math.inf)))


class VICReg(Method):
    """An encoder and one expander on all of its features."""

    config_class = VICRegConfig

    def __init__(self, config: VICRegConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.expand = expander(encoder.dim, config.expander_widths)

    @classmethod
    def build(cls, config: VICRegConfig, encoder: Encoder, task: Task) -> "VICReg":
        check_views(task, method="vicreg")
        return cls(config, encoder)

    def forward(self, views: Views) -> Outcome:
        features = view_features(self.encoder, views, method="vicreg")
        a, b = pairs(each_view(self.expand, features))
        config = self.config
        terms = vicreg_terms(
            a,
            b,
            invariance=config.invariance,
            variance=config.variance,
            covariance=config.covariance,
            free_dims=config.free_dims,
        )
        return Outcome(terms=terms, features=by_part(self.encoder, features.flatten(0, 1)))


def vicreg_terms(
    a: Float[Tensor, "batch dim"],
    b: Float[Tensor, "batch dim"],
    *,
    invariance: float,
    variance: float,
    covariance: float,
    free_dims: int = 0,
) -> dict[str, Tensor]:
    """VICReg's weighted terms of two embeddings, the last `free_dims` of which need not agree. Rows are this rank's."""
    kept = a.shape[1] - free_dims
    all_a, all_b = gather_rows(torch.stack([a, b], dim=1)).unbind(1)
    return {
        "invariance": invariance * invariance_loss(a[:, :kept], b[:, :kept]),
        **regularisers(all_a, all_b, variance=variance, covariance=covariance),
    }


def regularisers(
    first: Float[Tensor, "all_rows dim"],
    second: Float[Tensor, "all_rows dim"],
    *,
    variance: float,
    covariance: float,
) -> dict[str, Tensor]:
    """The weighted terms that keep two embeddings from collapsing, which SIE shares; of the rows of all ranks.

    The variance hinge is halved over the two and the covariance is not.
    """
    return {
        "variance": variance * (variance_hinge(first) + variance_hinge(second)) / 2,
        "covariance": covariance * (covariance_loss(first) + covariance_loss(second)),
    }
