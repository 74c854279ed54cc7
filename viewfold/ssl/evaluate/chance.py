"""Levels that are reached without looking at an image: no score means anything without its own."""

import torch
from torch import Tensor


def most_frequent(label: Tensor, num: int) -> Tensor:
    """The `num` most frequent classes in `label` (no -1 among them): the best guess of one who sees only labels.

    Of two equally frequent classes the lower comes first.
    """
    return torch.bincount(label).argsort(descending=True, stable=True)[:num]


def mrr_chance(num_views: int) -> float:
    """Mean reciprocal rank of a random order of `num_views` candidates, H_V / V, which a predictor that ignores the
    transformation reaches exactly (arXiv:2302.10283's retrieval over the views of one object)."""
    return sum(1 / rank for rank in range(1, num_views + 1)) / num_views


def hit_chance(k: int, num_views: int) -> float:
    """Share of queries whose one true view is among the first `k` of `num_views` in random order."""
    return min(k, num_views) / num_views
