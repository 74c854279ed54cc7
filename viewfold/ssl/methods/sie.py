"""SIE: a part of the features ignores the transformation between two views, the rest predicts it (arXiv:2302.10283)."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.config import unknown
from viewfold.errors import InvalidInput
from viewfold.ssl.batchnorm import each_view
from viewfold.ssl.dist import gather_rows
from viewfold.ssl.encoder import Encoder
from viewfold.ssl.heads import LinearHypernetwork, expander
from viewfold.ssl.losses import covariance_loss, equivariance_loss, invariance_loss, variance_hinge
from viewfold.ssl.methods.method import Method, MethodConfig, Outcome, Task, by_part
from viewfold.ssl.methods.relations import RELATIONS
from viewfold.values import Views


@dataclass(frozen=True, kw_only=True)
class SIEConfig(MethodConfig):
    """Weights and widths of SIE; the defaults are the published recipe's."""

    name: Literal["sie"] = "sie"
    transformation: str = "rotation"
    """What the equivariant part must follow: `rotation`, `rotation+colour` or `difference` of recorded latents, or what
    was `drawn` to make the views."""
    expander_widths: tuple[int, ...] = (1024, 1024, 1024)
    """Of each of the two expanders: hidden layers, then the embedding."""
    invariance: float = 10.0
    """Weight of the distance between the invariant embeddings."""
    equivariance_factor: float = 0.45
    """Weight of the prediction error, as a multiple of `invariance`."""
    variance: float = 10.0
    """Weight of the variance hinges: on each view's embedding, and on the prediction."""
    covariance: float = 1.0
    """Weight of the covariances, over the invariant and equivariant embedding together."""

    def __post_init__(self) -> None:
        if self.transformation not in RELATIONS:
            raise unknown("transformation", self.transformation, list(RELATIONS))
        if not self.expander_widths or min(self.expander_widths) < 2:
            raise ValueError(f"expander_widths must be one or more widths of at least 2, got {self.expander_widths}")
        for weight in ("invariance", "equivariance_factor", "variance", "covariance"):
            if getattr(self, weight) < 0:
                raise ValueError(f"{weight} must be 0 or more, got {getattr(self, weight)}")


class SIE(Method):
    """An encoder, an expander for each part, and a predictor of the second view's equivariant embedding."""

    config_class = SIEConfig

    def __init__(self, config: SIEConfig, encoder: Encoder, *, num_params: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        invariant, equivariant = encoder.parts["invariant"], encoder.parts["equivariant"]
        self.expand_invariant = expander(invariant.stop - invariant.start, config.expander_widths)
        self.expand_equivariant = expander(equivariant.stop - equivariant.start, config.expander_widths)
        self.predict = LinearHypernetwork(config.expander_widths[-1], num_params)

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
        return cls(config, encoder, num_params=num_params)

    def forward(self, views: Views) -> Outcome:
        if len(views.images) != 2:
            raise InvalidInput(
                f"method sie compares two views, got {len(views.images)}; choose a policy that draws two, or pairs of "
                "images with latents"
            )
        features = each_view(self.encoder, views.images)
        a, b = each_view(self.expand_invariant, features[:, :, self.encoder.parts["invariant"]])
        x, y = each_view(self.expand_equivariant, features[:, :, self.encoder.parts["equivariant"]])
        z = RELATIONS[self.config.transformation](views)
        terms = sie_terms((a, x), (b, y), self.predict(x, z), self.config)
        return Outcome(terms=terms, features=by_part(self.encoder, features.flatten(0, 1)))


def sie_terms(
    first: tuple[Float[Tensor, "batch inv"], Float[Tensor, "batch equi"]],
    second: tuple[Float[Tensor, "batch inv"], Float[Tensor, "batch equi"]],
    prediction: Float[Tensor, "batch equi"],
    config: SIEConfig,
) -> dict[str, Tensor]:
    """SIE's weighted terms, from each view's (invariant, equivariant) embeddings and the prediction of the second.

    Variance is halved over the two views and covariance is not; the prediction has a hinge of its own and no
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
        "variance": config.variance * (variance_hinge(view_1) + variance_hinge(view_2)) / 2,
        "prediction_variance": config.variance * variance_hinge(predicted) / 2,
        "covariance": config.covariance * (covariance_loss(view_1) + covariance_loss(view_2)),
    }
