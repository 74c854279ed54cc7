"""SimCLR: each view's embedding is told from all others by its other view (arXiv:2002.05709)."""

from dataclasses import dataclass
from typing import Literal

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
from viewfold.values import Views


@dataclass(frozen=True, kw_only=True)
class SimCLRConfig(MethodConfig):
    """Temperature and widths of SimCLR; the defaults are those of SIE's comparison."""

    name: Literal["simclr"] = "simclr"
    expander_widths: tuple[int, ...] = (2048, 2048, 2048)
    """Of the expander: hidden layers, then the embedding."""
    tau: float = 0.1
    """Temperature, above 0."""

    def __post_init__(self) -> None:
        check_widths(self.expander_widths)
        check_tau(self.tau)


class SimCLR(Method):
    """An encoder and one expander on all of its features, trained by InfoNCE."""

    config_class = SimCLRConfig

    def __init__(self, config: SimCLRConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.expand = expander(encoder.dim, config.expander_widths)

    @classmethod
    def build(cls, config: SimCLRConfig, encoder: Encoder, task: Task) -> "SimCLR":
        check_two_views(task, method="simclr")
        return cls(config, encoder)

    def forward(self, views: Views) -> Outcome:
        features = pair_features(self.encoder, views, method="simclr")
        a, b = each_view(self.expand, features)
        terms = {"info_nce": info_nce_loss(a, b, tau=self.config.tau)}
        return Outcome(terms=terms, features=by_part(self.encoder, features.flatten(0, 1)))
