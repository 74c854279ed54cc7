"""SIE: a part of the features ignores the transformation between two views, the rest predicts it (arXiv:2302.10283)."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.config import check_ranges, chosen
from viewfold.errors import InvalidInput
from viewfold.ssl.batchnorm import each_view
from viewfold.ssl.dist import gather_rows
from viewfold.ssl.encoder import Encoder
from viewfold.ssl.equivariant import EquivariantHead
from viewfold.ssl.heads import check_widths, expander
from viewfold.ssl.losses import equivariance_loss, invariance_loss, variance_hinge
from viewfold.ssl.methods.method import Method, MethodConfig, Outcome, Task, by_part, equivariant_head
from viewfold.ssl.methods.relations import RELATIONS, check_relation
from viewfold.ssl.methods.vicreg import regularisers
from viewfold.ssl.methods.view_pairs import check_views, paired, pairs, view_features
from viewfold.ssl.predictors import PREDICTOR_CONFIGS, LinearPredictorConfig, PredictorConfig
from viewfold.values import Views


@dataclass(frozen=True, kw_only=True)
class SIEConfig(MethodConfig):
    """Weights and widths of SIE; the defaults are the published recipe's."""

    name: Literal["sie"] = "sie"
    transformation: str = "rotation"
    """What the equivariant part must follow, a name of `RELATIONS`: `rotation` and others between recorded latents, or
    what was `drawn` to make the views."""
    expander_widths: tuple[int, ...] = (1024, 1024, 1024)
    """Of each of the two expanders: hidden layers, then the embedding."""
    invariance: float = 10.0
    """Weight of the distance between the invariant embeddings."""
    equivariance_factor: float = 0.45
    """Weight of the prediction error, as a multiple of `invariance`."""
    predictor: Annotated[PredictorConfig, chosen("predictor", PREDICTOR_CONFIGS)] = field(
        default_factory=LinearPredictorConfig
    )
    """Of the second view's equivariant embedding."""
    variance: float = 10.0
    """Weight of the variance hinges on the two views' embeddings."""
    prediction_variance: float = 10.0
    """Weight of the variance hinge on the prediction; 0 is the variant without."""
    covariance: float = 1.0
    """Weight of the covariances, over the invariant and equivariant embedding together."""

    def __post_init__(self) -> None:
        check_relation(self.transformation)
        check_widths(self.expander_widths)
        weights = ("invariance", "equivariance_factor", "variance", "prediction_variance", "covariance")
        check_ranges(self, **dict.fromkeys(weights, (0, math.inf)))


SIE_PRESETS: dict[str, SIEConfig] = {
    "no-variance": SIEConfig(prediction_variance=0.0),
    "rotation+colour": SIEConfig(transformation="rotation+colour"),
    "sie": SIEConfig(),
}
"""The published variants of the split encoder."""


class SIE(Method):
    """An encoder, an expander for each part, and a predictor of the second view's equivariant embedding."""

    config_class = SIEConfig

    def __init__(self, config: SIEConfig, encoder: Encoder, *, num_params: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        invariant = encoder.parts["invariant"]
        self.expand_invariant = expander(invariant.stop - invariant.start, config.expander_widths)
        self.head: EquivariantHead = equivariant_head(config, encoder, part="equivariant", num_params=num_params)

    @classmethod
    def build(cls, config: SIEConfig, encoder: Encoder, task: Task) -> "SIE":
        for name in ("invariant", "equivariant"):
            part = encoder.parts[name]
            if part.start == part.stop:
                raise InvalidInput(
                    f"method sie needs an encoder with both parts and its {name} part is empty; set "
                    f"encoder.equivariant_dim between 1 and {encoder.dim - 1}"
                )
        num_params = RELATIONS[config.transformation].num_outputs(task)
        check_views(task, method="sie")
        return cls(config, encoder, num_params=num_params)

    def forward(self, views: Views) -> Outcome:
        features = view_features(self.encoder, views, method="sie")
        a, b = pairs(each_view(self.expand_invariant, features[:, :, self.encoder.parts["invariant"]]))
        x, y = pairs(each_view(self.head.embed, features[:, :, self.encoder.parts["equivariant"]]))
        z = RELATIONS[self.config.transformation](paired(views))
        terms = sie_terms((a, x), (b, y), self.head.predict(x, z), self.config)
        return Outcome(terms=terms, features=by_part(self.encoder, features.flatten(0, 1)))


def sie_terms(
    first: tuple[Float[Tensor, "batch inv"], Float[Tensor, "batch equi"]],
    second: tuple[Float[Tensor, "batch inv"], Float[Tensor, "batch equi"]],
    prediction: Float[Tensor, "batch equi"],
    config: SIEConfig,
) -> dict[str, Tensor]:
    """SIE's weighted terms, from each view's (invariant, equivariant) embeddings and the prediction of the second.

    The regularisers are those of the two parts together; the prediction has a variance hinge of its own and no
    covariance. Rows are this rank's.
    """
    (a, x), (b, y) = first, second
    widths = [a.shape[1] + x.shape[1], b.shape[1] + y.shape[1], y.shape[1]]
    # One message for all that looks at the whole batch: on CPUs a small one costs a millisecond, whatever is in it.
    everyone = gather_rows(torch.cat([a, x, b, y, prediction], dim=1))
    view_1, view_2, predicted = torch.split(everyone, widths, dim=1)
    return {
        "invariance": config.invariance * invariance_loss(a, b),
        "equivariance": config.invariance * config.equivariance_factor * equivariance_loss(prediction, y),
        **regularisers(view_1, view_2, variance=config.variance, covariance=config.covariance),
        "prediction_variance": config.prediction_variance * variance_hinge(predicted) / 2,
    }
