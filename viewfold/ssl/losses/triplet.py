"""Triplet ranking of mined pairs (arXiv:1708.02901), and which triplets of a batch it is taken over.

D(a, b) = 1 - cos(a, b), between 0 and 2. Others: the rows of all ranks that may be a pair's negatives.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from viewfold.ssl.precision import in_float32


@in_float32
def triplet_ranking_loss(
    x: Float[Tensor, "batch dim"],
    positive: Float[Tensor, "batch dim"],
    others: Float[Tensor, "other dim"],
    *,
    margin: float = 0.5,
) -> Float[Tensor, "batch other"]:
    """max(0, D(X, X+) - D(X, X-) + m) of each pair with each other row as X-: between 0 and 2 + m."""
    x = F.normalize(x, dim=1)
    to_positive = (x * F.normalize(positive, dim=1)).sum(1, keepdim=True)
    return F.relu(x @ F.normalize(others, dim=1).T - to_positive + margin)


def of_other_parents(parent: Int[Tensor, "2 batch"], others: Int[Tensor, " other"]) -> Bool[Tensor, "batch other"]:
    """Who may be whose negative: rows in a parent cluster that is neither image's. A row in none (-1) is nobody's."""
    return (others >= 0) & (others != parent[:, :, None]).all(0)


@torch.no_grad()
def choose_negatives(
    loss: Float[Tensor, "batch other"],
    allowed: Bool[Tensor, "batch other"],
    draws: Float[Tensor, "batch other"],
    *,
    negatives: int,
    hard: int,
) -> Bool[Tensor, "batch other"]:
    """Which triplets of each pair are trained on: at most `negatives` of those that are allowed and have a loss.

    `hard` of them are drawn from the `negatives` with the highest loss, the others from all but these; with no hard
    ones, from all. What has the highest of `draws` (uniform, all different) is drawn.
    """
    violators = allowed & (loss > 0)
    if not hard:
        return _highest(draws, violators, negatives)
    worst = _highest(loss, violators, negatives)
    return _highest(draws, worst, hard) | _highest(draws, violators & ~worst, negatives - hard)


def _highest(values: Tensor, among: Tensor, num: int) -> Tensor:
    """True at the `num` highest values of each row `among` the candidates, or at all of them where they are fewer."""
    best = values.masked_fill(~among, -torch.inf).topk(min(num, values.shape[1]), dim=1).indices
    return torch.zeros_like(among).scatter(1, best, True) & among
