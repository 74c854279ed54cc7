"""Nearest neighbours on frozen features: what an index of them would answer."""

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from viewfold.errors import InvalidInput
from viewfold.ssl.evaluate.accuracy import accuracy_measures
from viewfold.ssl.evaluate.chance import most_frequent
from viewfold.ssl.evaluate.measure import Measure, Split

_BLOCK = 1024  # queries compared at a time, so that memory grows with the gallery alone


def knn_accuracy(
    gallery: Split, queries: Split, *, k: int = 5, exclude_group: bool = False, seed: int = 0
) -> list[Measure]:
    """Share of `queries` whose `k` nearest rows of `gallery` vote for their class, plain and class-balanced.

    Nearest by cosine; a draw goes to the larger summed similarity, then to the lower label. Rows without a label
    neither vote nor ask. With `exclude_group` no row of the query's own group votes: give every row its own group and
    the same split twice for leave-one-out. Chance is the gallery's most frequent class.

    Raises:
        InvalidInput: `k` outside 1..gallery size, no labels, or `exclude_group` where queries have no group.
    """
    shelf, asked = gallery.labelled(), queries.labelled()
    if not 1 <= k <= len(shelf.label):
        raise InvalidInput(f"kNN: k must lie in 1..{len(shelf.label)}, the labelled samples of the gallery, got {k}")
    if exclude_group and bool((asked.group < 0).any()):
        raise InvalidInput("kNN: exclude_group needs a group for every query; record groups, or leave it out")
    predicted = nearest_vote(shelf, asked, k=k, exclude_group=exclude_group)
    detail = {
        "k": k,
        "exclude_group": exclude_group,
        "num_gallery": len(shelf.label),
        "unlabelled_queries": len(queries.label) - len(asked.label),
    }
    blind = asked.label == most_frequent(shelf.label, 1)
    return accuracy_measures(
        f"knn{k}/top1", asked, predicted == asked.label, blind_hits=blind, seed=seed, detail=detail
    )


def nearest_vote(gallery: Split, queries: Split, *, k: int, exclude_group: bool) -> Int[Tensor, " query"]:
    """The class that the `k` nearest rows of `gallery` vote for, one for each query; -1 where nobody may vote."""
    shelf = F.normalize(gallery.features, dim=1)
    predicted = []
    for first in range(0, len(queries.label), _BLOCK):
        block = slice(first, first + _BLOCK)
        similarity = F.normalize(queries.features[block], dim=1) @ shelf.T
        if exclude_group:
            similarity[queries.group[block][:, None] == gallery.group[None, :]] = -torch.inf
        nearest = similarity.topk(k, dim=1)
        predicted.append(_vote(gallery.label[nearest.indices], nearest.values))
    return torch.cat(predicted)


def _vote(labels: Tensor, similarity: Tensor) -> Tensor:
    """`[query, k]` labels and similarities (minus infinity: may not vote) to one label for each query."""
    may_vote = similarity.isfinite()
    empty = torch.zeros(len(labels), int(labels.max()) + 1)
    votes = empty.scatter_add(1, labels, may_vote.float())
    # Rounded, so that a draw is a draw whatever order the same similarities were added in.
    support = empty.scatter_add(1, labels, similarity.where(may_vote, torch.zeros(()))).round(decimals=5)
    leads = votes == votes.amax(dim=1, keepdim=True)
    winner = support.masked_fill(~leads, -torch.inf).argmax(dim=1)  # of equals, argmax takes the first
    return winner.masked_fill(~may_vote.any(dim=1), -1)
