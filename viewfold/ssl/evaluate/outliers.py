"""Whether images of another distribution stand out by their features: AUROC and FPR95 of two scores."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from viewfold.errors import InvalidInput
from viewfold.ssl.evaluate.groups import numbered
from viewfold.ssl.evaluate.interval import bootstrap
from viewfold.ssl.evaluate.measure import Measure, Split, finite

_BLOCK = 1024  # queries compared at a time, so that memory grows with the training rows alone
_TRUE_POSITIVE_RATE = 0.95
Weights = NDArray[np.float64]


def detection(train: ArrayLike | Tensor, inside: Split, outside: Split, *, k: int = 5, seed: int = 0) -> list[Measure]:
    """`detection/norm_auroc`, `norm_fpr95`, `knn_auroc` and `knn_fpr95`: are rows `inside` told from rows `outside`?

    `train` `[row, dim]` are features of the known distribution, `inside` other rows of it, of other groups. The
    positive class is inside. The scores are the norm of the features, and minus the cosine distance to the `k`-th
    nearest row of `train` (arXiv:2204.06507); both are meant to be larger inside, and an AUROC below 0.5 says that one
    is not. In FPR95 lower is better. Groups of the same number in both splits are one group; a draw that takes no row
    of one side keeps that side whole, and a side of a single group leaves no interval.

    Raises:
        InvalidInput: no rows on one side, `k` outside 1..rows of `train`, or features are nan or infinite.
    """
    shelf = finite(train)
    if not len(inside.features) or not len(outside.features):
        raise InvalidInput(
            f"detection: {len(inside.features)} images inside and {len(outside.features)} outside; both are needed"
        )
    if not 1 <= k <= len(shelf):
        raise InvalidInput(f"detection: k must lie in 1..{len(shelf)}, the training images, got {k}")
    features = torch.cat([inside.features, outside.features])
    positive = np.arange(len(features)) < len(inside.features)
    groups = torch.cat([inside.group, outside.group]).numpy()
    detail = {"positive": "inside", "num_inside": len(inside.features), "num_outside": len(outside.features)}
    norm = Ranking.of(features.norm(dim=1).numpy(), positive)
    near = Ranking.of(-kth_distance(shelf, features, k=k).numpy(), positive)
    found = _measures("detection/norm", norm, groups, seed=seed, detail=detail)
    detail |= {"k": k, "num_train": len(shelf)}
    return found + _measures("detection/knn", near, groups, seed=seed, detail=detail)


def kth_distance(
    train: Float[Tensor, "row dim"], queries: Float[Tensor, "query dim"], *, k: int
) -> Float[Tensor, " query"]:
    """Cosine distance, 0..2, of each query to its `k`-th nearest row of `train`."""
    shelf = F.normalize(train, dim=1)
    blocks = torch.split(F.normalize(queries, dim=1), _BLOCK)
    return 1 - torch.cat([(block @ shelf.T).topk(k, dim=1).values[:, -1] for block in blocks])


@dataclass(frozen=True)
class Ranking:
    """Rows in the order of their scores; rows of the same score share a place."""

    place: NDArray[np.int64]
    """`[row]`: 0 for the highest score."""
    positive: NDArray[np.bool_]
    """`[row]`."""

    @classmethod
    def of(cls, scores: NDArray[np.floating[Any]], positive: NDArray[np.bool_]) -> "Ranking":
        """Rows `[row]` by score, those that should be high marked."""
        return cls(np.unique(-scores, return_inverse=True)[1], positive)

    def counts(self, weights: Weights) -> tuple[Weights, Weights]:
        """Positives and negatives at each place, each row as often as `weights` says; an absent side counts once."""
        return self._tally(weights * self.positive, self.positive), self._tally(
            weights * ~self.positive, ~self.positive
        )

    def _tally(self, drawn: Weights, side: NDArray[np.bool_]) -> Weights:
        return np.bincount(self.place, weights=drawn if drawn.any() else side).astype(np.float64)

    def auroc(self, weights: Weights) -> float:
        """Share of pairs of a positive and a negative where the positive scores higher, ties counting half."""
        positives, negatives = self.counts(weights)
        lower = negatives.sum() - negatives.cumsum()
        return float(positives @ (lower + negatives / 2) / (positives.sum() * negatives.sum()))

    def fpr95(self, weights: Weights) -> float:
        """Share of negatives at or above the highest threshold that at least 95 % of the positives reach.

        1 where all scores are the same, for no threshold lets 95 % of anything through.
        """
        positives, negatives = self.counts(weights)
        enough = _TRUE_POSITIVE_RATE * positives.sum() - 1e-6  # counts are whole, their share may be rounded up
        threshold = int(np.searchsorted(positives.cumsum(), enough))
        return float(negatives[: threshold + 1].sum() / negatives.sum())


def _measures(
    name: str, ranking: Ranking, groups: NDArray[np.int64], *, seed: int, detail: dict[str, Any]
) -> list[Measure]:
    num_groups = [numbered(groups[side])[1] for side in (ranking.positive, ~ranking.positive)]
    facts = detail | {"groups_inside": num_groups[0], "groups_outside": num_groups[1]}
    measures = []
    for short, statistic, chance in (("auroc", ranking.auroc, 0.5), ("fpr95", ranking.fpr95, _TRUE_POSITIVE_RATE)):
        interval = bootstrap(statistic, groups, seed=seed)
        if min(num_groups) < 2:
            interval = interval._replace(low=None, high=None)
        measures.append(
            Measure(name=f"{name}_{short}", **interval._asdict(), chance=chance, n=len(groups), detail=facts)
        )
    return measures
