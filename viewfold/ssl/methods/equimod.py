"""EquiMod: an invariant objective, and the same objective between a prediction and its target (arXiv:2211.01244)."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from torch import Tensor

from viewfold.config import check_ranges, chosen
from viewfold.ssl.batchnorm import each_view
from viewfold.ssl.encoder import Encoder
from viewfold.ssl.equivariant import EquivariantHead
from viewfold.ssl.heads import check_widths, expander
from viewfold.ssl.losses import info_nce_loss
from viewfold.ssl.methods.method import (
    Method,
    MethodConfig,
    Outcome,
    Task,
    by_part,
    check_tau,
    check_two_views,
    check_unread,
    equivariant_head,
    pair_features,
)
from viewfold.ssl.methods.relations import RELATIONS, check_relation
from viewfold.ssl.methods.vicreg import vicreg_terms
from viewfold.ssl.predictors import PREDICTOR_CONFIGS, LinearPredictorConfig, PredictorConfig
from viewfold.values import Views


@dataclass(frozen=True, kw_only=True)
class EquiModConfig(MethodConfig):
    """Weights and widths of EquiMod, in the form of SIE's comparison: both heads see all features."""

    name: Literal["equimod"] = "equimod"
    loss: Literal["simclr", "vicreg"] = "simclr"
    """What both heads are trained by."""
    transformation: str = "rotation"
    """What the equivariant head must follow, as for `sie`."""
    expander_widths: tuple[int, ...] = (2048, 2048, 2048)
    """Of each of the two expanders: hidden layers, then the embedding."""
    predictor: Annotated[PredictorConfig, chosen("predictor", PREDICTOR_CONFIGS)] = field(
        default_factory=LinearPredictorConfig
    )
    """Of the second view's equivariant embedding."""
    equivariance_factor: float = 1.0
    """Weight of the loss between prediction and target, as a multiple of that between the invariant embeddings."""
    tau: float = 0.1
    """Temperature of `simclr`, above 0."""
    invariance: float = 10.0
    """Of `vicreg`: weight of the distance between the two embeddings."""
    variance: float = 10.0
    """Of `vicreg`: weight of the variance hinges, half on each embedding."""
    covariance: float = 1.0
    """Of `vicreg`: weight of the covariances, summed over the two embeddings."""

    def __post_init__(self) -> None:
        check_relation(self.transformation)
        check_widths(self.expander_widths)
        check_tau(self.tau)
        weights = ("invariance", "variance", "covariance")
        check_ranges(self, **dict.fromkeys(("equivariance_factor", *weights), (0, math.inf)))
        check_unread(self, *(weights if self.loss == "simclr" else ("tau",)), where=f"with loss {self.loss!r}")


class EquiMod(Method):
    """An encoder, two expanders on all of its features, and a predictor of the second view's equivariant embedding."""

    config_class = EquiModConfig

    def __init__(self, config: EquiModConfig, encoder: Encoder, *, num_params: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.expand_invariant = expander(encoder.dim, config.expander_widths)
        self.head: EquivariantHead = equivariant_head(config, encoder, part="all", num_params=num_params)

    @classmethod
    def build(cls, config: EquiModConfig, encoder: Encoder, task: Task) -> "EquiMod":
        check_two_views(task, method="equimod")
        return cls(config, encoder, num_params=RELATIONS[config.transformation].num_outputs(task))

    def forward(self, views: Views) -> Outcome:
        features = pair_features(self.encoder, views, method="equimod")
        a, b = each_view(self.expand_invariant, features)
        x, y = each_view(self.head.embed, features)
        prediction = self.head.predict(x, RELATIONS[self.config.transformation](views))
        factor = self.config.equivariance_factor
        terms = self._terms(a, b) | {
            f"prediction_{name}": factor * term for name, term in self._terms(prediction, y).items()
        }
        return Outcome(terms=terms, features=by_part(self.encoder, features.flatten(0, 1)))

    def _terms(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        config = self.config
        if config.loss == "simclr":
            return {"info_nce": info_nce_loss(first, second, tau=config.tau)}
        return vicreg_terms(
            first, second, invariance=config.invariance, variance=config.variance, covariance=config.covariance
        )
