"""AugSelf: SimCLR, and features of two views that tell the transformation between them (arXiv:2111.09613)."""

import math
from dataclasses import dataclass
from typing import Literal

from viewfold.config import check_ranges
from viewfold.ssl.batchnorm import each_view
from viewfold.ssl.encoder import Encoder
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
    pair_features,
)
from viewfold.ssl.methods.regression import joined_pair, regression_loss, regressor
from viewfold.ssl.methods.relations import RELATIONS, check_relation
from viewfold.values import Views


@dataclass(frozen=True, kw_only=True)
class AugSelfConfig(MethodConfig):
    """Weights and widths of AugSelf; the defaults are those of SIE's comparison."""

    name: Literal["augself"] = "augself"
    transformation: str = "rotation"
    """What the features of both views must tell, as for `sie`."""
    expander_widths: tuple[int, ...] = (2048, 2048, 2048)
    """Of the expander: hidden layers, then the embedding."""
    tau: float = 0.1
    """Temperature, above 0."""
    regression: float = 1.0
    """Weight of the transformation's mean squared error."""
    regressor_width: int = 1024
    """Of the two hidden layers of the MLP that predicts the transformation."""

    def __post_init__(self) -> None:
        check_relation(self.transformation)
        check_widths(self.expander_widths)
        check_tau(self.tau)
        check_ranges(self, regression=(0, math.inf), regressor_width=(1, math.inf))


class AugSelf(Method):
    """An encoder, one expander on all of its features, and an MLP that reads the transformation off both views."""

    config_class = AugSelfConfig

    def __init__(self, config: AugSelfConfig, encoder: Encoder, *, num_params: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.expand = expander(encoder.dim, config.expander_widths)
        self.regress = regressor(encoder.dim, config.regressor_width, num_params)

    @classmethod
    def build(cls, config: AugSelfConfig, encoder: Encoder, task: Task) -> "AugSelf":
        check_two_views(task, method="augself")
        return cls(config, encoder, num_params=RELATIONS[config.transformation].num_outputs(task))

    def forward(self, views: Views) -> Outcome:
        features = pair_features(self.encoder, views, method="augself")
        a, b = each_view(self.expand, features)
        config = self.config
        z = RELATIONS[config.transformation](views)
        terms = {
            "info_nce": info_nce_loss(a, b, tau=config.tau),
            "regression": config.regression * regression_loss(self.regress(joined_pair(features)), z),
        }
        return Outcome(terms=terms, features=by_part(self.encoder, features.flatten(0, 1)))
