"""SIE without the split: all features predict the transformation's effect (arXiv:2302.10283, equivariant only)."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch

from viewfold.config import check_ranges, chosen
from viewfold.ssl.batchnorm import each_view
from viewfold.ssl.dist import gather_rows
from viewfold.ssl.encoder import Encoder
from viewfold.ssl.equivariant import EquivariantHead
from viewfold.ssl.heads import check_widths
from viewfold.ssl.losses import equivariance_loss, variance_hinge
from viewfold.ssl.methods.method import Method, MethodConfig, Outcome, Task, by_part, equivariant_head
from viewfold.ssl.methods.relations import RELATIONS, check_relation
from viewfold.ssl.methods.vicreg import regularisers
from viewfold.ssl.methods.view_pairs import check_views, paired, pairs, view_features
from viewfold.ssl.predictors import PREDICTOR_CONFIGS, LinearPredictorConfig, PredictorConfig
from viewfold.values import Views


@dataclass(frozen=True, kw_only=True)
class SIEEquivariantConfig(MethodConfig):
    """Weights and widths; the defaults are the published recipe's."""

    name: Literal["sie-equivariant"] = "sie-equivariant"
    transformation: str = "rotation"
    """What the features must follow, as for `sie`."""
    expander_widths: tuple[int, ...] = (2048, 2048, 2048)
    """Of the expander: hidden layers, then the embedding."""
    equivariance: float = 10.0
    """Weight of the prediction error. There is no invariance to be a multiple of, so it takes that one's weight."""
    predictor: Annotated[PredictorConfig, chosen("predictor", PREDICTOR_CONFIGS)] = field(
        default_factory=LinearPredictorConfig
    )
    """Of the second view's embedding."""
    variance: float = 10.0
    """Weight of the variance hinges on the two views' embeddings."""
    prediction_variance: float = 10.0
    """Weight of the variance hinge on the prediction."""
    covariance: float = 1.0
    """Weight of the covariances, summed over the two views."""

    def __post_init__(self) -> None:
        check_relation(self.transformation)
        check_widths(self.expander_widths)
        weights = ("equivariance", "variance", "prediction_variance", "covariance")
        check_ranges(self, **dict.fromkeys(weights, (0, math.inf)))


class SIEEquivariant(Method):
    """An encoder, one expander on all of its features, and a predictor of the second view's embedding."""

    config_class = SIEEquivariantConfig

    def __init__(self, config: SIEEquivariantConfig, encoder: Encoder, *, num_params: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.head: EquivariantHead = equivariant_head(config, encoder, part="all", num_params=num_params)

    @classmethod
    def build(cls, config: SIEEquivariantConfig, encoder: Encoder, task: Task) -> "SIEEquivariant":
        num_params = RELATIONS[config.transformation].num_outputs(task)
        check_views(task, method="sie-equivariant")
        return cls(config, encoder, num_params=num_params)

    def forward(self, views: Views) -> Outcome:
        features = view_features(self.encoder, views, method="sie-equivariant")
        x, y = pairs(each_view(self.head.embed, features))
        prediction = self.head.predict(x, RELATIONS[self.config.transformation](paired(views)))
        all_x, all_y, predicted = gather_rows(torch.stack([x, y, prediction], dim=1)).unbind(1)
        config = self.config
        terms = {
            "equivariance": config.equivariance * equivariance_loss(prediction, y),
            **regularisers(all_x, all_y, variance=config.variance, covariance=config.covariance),
            "prediction_variance": config.prediction_variance * variance_hinge(predicted) / 2,
        }
        return Outcome(terms=terms, features=by_part(self.encoder, features.flatten(0, 1)))
