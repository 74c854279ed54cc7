"""How demonstrations are chosen."""

from dataclasses import dataclass, field
from typing import Literal

from viewfold.config import Config
from viewfold.retrieval.selection.abstention import AbstainConfig
from viewfold.retrieval.selection.diversity import DiversityConfig
from viewfold.retrieval.selection.filters import FilterConfig
from viewfold.retrieval.selection.guards import GuardConfig
from viewfold.retrieval.selection.ordering import Order
from viewfold.retrieval.selection.quota import QuotaConfig


@dataclass(frozen=True, kw_only=True)
class SelectConfig(Config):
    """How demonstrations are chosen; the parts are applied in the order in which they stand here.

    >>> config = vf.SelectConfig(k=3, filters=FilterConfig(domains=("style-0",)))
    >>> config.strategy, config.k, config.order
    ('invariant', 3, 'nearest_last')
    """

    strategy: Literal["random", "nearest", "invariant", "oracle"] = "invariant"
    """`nearest` and `invariant` are one rule; which of the two names is true depends on the bundle's encoder. `oracle`
    is told the query's label and takes the nearest that carry it: a ceiling, for evaluation alone."""
    k: int = 7
    """Demonstrations for each query; 0 asks for none (zero-shot)."""
    filters: FilterConfig = field(default_factory=FilterConfig)
    """Which images of the pool may be shown to anyone."""
    exclude_group: bool = True
    """Leave out images of the query's own patient, slide, object."""
    guards: GuardConfig = field(default_factory=GuardConfig)
    """Which images look too much like the query."""
    quota: QuotaConfig = field(default_factory=QuotaConfig)
    """How many of a class or domain."""
    diversity: DiversityConfig = field(default_factory=DiversityConfig)
    """How different from one another."""
    abstain: AbstainConfig = field(default_factory=AbstainConfig)
    """When to show less, or nothing."""
    order: Order = "nearest_last"
    """Order in the prompt; models lean on what they read last. For `random`, rank is the order of the draw."""
    seed: int = 0
    """For what is drawn or shuffled: a query's draw depends on this and on its id alone."""

    def __post_init__(self) -> None:
        if self.k < 0:
            raise ValueError(f"k must be 0 or more, got {self.k}")
        if self.strategy == "random" and self.diversity.lam < 1:
            raise ValueError("diversity.lam below 1 ranks by similarity, and strategy 'random' has none")
