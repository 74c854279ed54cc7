"""Transitive invariance: mined pairs lie nearer to each other than to rows of other clusters (arXiv:1708.02901)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from viewfold.config import check_ranges
from viewfold.errors import InvalidInput
from viewfold.keyed import key64, uniforms
from viewfold.ssl.batchnorm import each_view
from viewfold.ssl.dist import gather_rows, gather_values, rank
from viewfold.ssl.encoder import Encoder
from viewfold.ssl.heads import check_widths, expander
from viewfold.ssl.losses import choose_negatives, of_other_parents, triplet_ranking_loss
from viewfold.ssl.methods.method import (
    Method,
    MethodConfig,
    Outcome,
    Task,
    by_part,
    check_part,
    check_two_views,
    check_unread,
    pair_features,
)
from viewfold.ssl.precision import in_float32
from viewfold.values import Views


@dataclass(frozen=True, kw_only=True)
class TransitiveConfig(MethodConfig):
    """Margin and negatives of the ranking loss.

    The margin and the width are the paper's; how negatives are chosen is that of the code of its predecessor, Wang and
    Gupta 2015, since the paper's own is not public.
    """

    name: Literal["transitive"] = "transitive"
    part: Literal["all", "equivariant", "invariant"] = "invariant"
    """The features that are to ignore which thing of its kind they show."""
    expander_widths: tuple[int, ...] = (1024,)
    """Of the expander: hidden layers, then the embedding; a single width is a linear map."""
    margin: float = 0.5
    """By how much of a cosine a negative must be farther away than the positive; in 0..2."""
    negatives: int = 4
    """Of each pair in each step, where there are as many that come too near."""
    hard_share: float = 0.5
    """Share of the negatives, rounded, that is drawn from the worst `negatives`; the others are drawn from the rest."""
    hard_from_step: int = 150_000
    """Steps with negatives drawn from all that come too near, before any is drawn from the worst."""

    def __post_init__(self) -> None:
        check_widths(self.expander_widths)
        check_ranges(self, margin=(0, 2), hard_share=(0, 1), negatives=(1, 2**31), hard_from_step=(0, 2**62))
        if self.num_hard == 0:
            check_unread(self, "hard_from_step", where=f"with hard_share={self.hard_share}")

    @property
    def num_hard(self) -> int:
        """Hard negatives of each pair, once there are any."""
        return round(self.negatives * self.hard_share)


class Transitive(Method):
    """An encoder and one expander on a part of its features, trained by the ranking of mined pairs."""

    config_class = TransitiveConfig
    steps_done: Tensor

    def __init__(self, config: TransitiveConfig, encoder: Encoder, *, seed: int = 0) -> None:
        """`seed` is that of the negatives that are drawn."""
        super().__init__()
        self.seed = seed
        self.config = config
        self.encoder = encoder
        self.part = encoder.parts[config.part]
        self.expand = expander(self.part.stop - self.part.start, config.expander_widths)
        # A buffer is in every checkpoint: a run that is cut goes on with the draws it would have had.
        self.register_buffer("steps_done", torch.zeros((), dtype=torch.int64))

    @classmethod
    def build(cls, config: TransitiveConfig, encoder: Encoder, task: Task) -> "Transitive":
        if not task.paired:
            raise InvalidInput(_NO_PAIRS)
        check_two_views(task, method="transitive")
        check_part(config.part, encoder, method="transitive")
        return cls(config, encoder, seed=task.seed)

    def forward(self, views: Views) -> Outcome:
        if views.parent is None:
            raise InvalidInput(_NO_PAIRS)
        features = pair_features(self.encoder, views, method="transitive")
        x, positive = each_view(self.expand, features[:, :, self.part])
        others = gather_rows(x)
        allowed = of_other_parents(views.parent, gather_values(views.parent[0]))
        margin = self.config.margin
        triplets = triplet_ranking_loss(x, positive, others, margin=margin) + triplet_ranking_loss(
            positive, x, others, margin=margin
        )
        chosen = self._chosen(triplets.detach(), allowed)
        # By the number there can be, not that there is: a batch that is nearly learned weighs less.
        loss = (triplets * chosen).sum() / (2 * self.config.negatives * len(x))
        return Outcome(
            terms={"ranking": loss},
            features=by_part(self.encoder, features.flatten(0, 1)),
            facts=_facts(x, positive, others, allowed, triplets),
        )

    def _chosen(self, triplets: Tensor, allowed: Tensor) -> Tensor:
        """Negatives of each pair, drawn by its place in the global batch: the same on any number of ranks."""
        step = int(self.steps_done)
        if self.training:
            self.steps_done += 1
        first = rank() * len(triplets)
        keys = [key64("negatives", self.seed, step, row) for row in range(first, first + len(triplets))]
        draws = torch.from_numpy(uniforms(keys, triplets.shape[1])).to(triplets.device)
        hard = self.config.num_hard if step >= self.config.hard_from_step else 0
        return choose_negatives(triplets, allowed, draws, negatives=self.config.negatives, hard=hard)


_NO_PAIRS = (
    "method transitive trains on mined pairs, and there are none; make them with `viewfold mine` and train on them, as "
    "the recipe transitive-objects3d does"
)


@torch.no_grad()
@in_float32
def _facts(x: Tensor, positive: Tensor, others: Tensor, allowed: Tensor, triplets: Tensor) -> dict[str, Tensor]:
    """Mean distances (0..2) to positives and to all that may be negatives, and the share of these that come too near.

    The last two are 0 where nothing may be a negative.
    """
    x, positive, others = (F.normalize(rows, dim=1) for rows in (x, positive, others))
    num_allowed = allowed.sum().clamp(min=1)
    return {
        "positive_distance": 1 - (x * positive).sum(1).mean(),
        "negative_distance": ((1 - x @ others.T) * allowed).sum() / num_allowed,
        "violator_share": (allowed & (triplets > 0)).sum() / num_allowed,
    }
