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
    """Share of `queries` whose class leads, or is among the first five, in a vote of the `k` nearest rows of `gallery`.

    Nearest by cosine; a draw goes to the larger summed similarity, then to the lower label. Top-5 is measured where the
    gallery has more than five classes: those that were voted for in this order, then the others by their frequency in
    the gallery. Each is given plain and class-balanced. Rows without a label neither vote nor ask. With `exclude_group`
    no row of the query's own group votes, and a query for whom nobody may vote counts as wrong: give every row its own
    group and the same split twice for leave-one-out. Chance is the gallery's most frequent class, or its first five.

    Raises:
        InvalidInput: `k` outside 1..gallery size, no labels, or `exclude_group` where queries have no group.
    """
    shelf, asked = gallery.labelled(), queries.labelled()
    if not 1 <= k <= len(shelf.label):
        raise InvalidInput(f"kNN: k must lie in 1..{len(shelf.label)}, the labelled samples of the gallery, got {k}")
    if exclude_group and bool((asked.group < 0).any()):
        raise InvalidInput("kNN: exclude_group needs a group for every query; record groups, or leave it out")
    detail = {
        "k": k,
        "exclude_group": exclude_group,
        "num_gallery": len(shelf.label),
        "unlabelled_queries": len(queries.label) - len(asked.label),
    }
    tops = (1, 5) if len(torch.bincount(shelf.label).nonzero()) > 5 else (1,)
    ranked = nearest_classes(shelf, asked, k=k, num=max(tops), exclude_group=exclude_group)
    measures = []
    for top in tops:
        hits = (ranked[:, :top] == asked.label[:, None]).any(dim=1)
        blind = torch.isin(asked.label, most_frequent(shelf.label, top))
        name = f"knn{k}/top{top}"
        measures += accuracy_measures(name, asked, hits, blind_hits=blind, seed=seed, detail=detail)
    return measures


def nearest_classes(
    gallery: Split, queries: Split, *, k: int, num: int, exclude_group: bool
) -> Int[Tensor, "query {num}"]:
    """The first `num` classes of each query in the order of `knn_accuracy`; -1 throughout where nobody may vote."""
    shelf = F.normalize(gallery.features, dim=1)
    by_frequency = most_frequent(gallery.label, int(gallery.label.max()) + 1)
    ranked = []
    for first in range(0, len(queries.label), _BLOCK):
        block = slice(first, first + _BLOCK)
        similarity = F.normalize(queries.features[block], dim=1) @ shelf.T
        if exclude_group:
            similarity[queries.group[block][:, None] == gallery.group[None, :]] = -torch.inf
        nearest = similarity.topk(k, dim=1)
        ranked.append(_ranked(gallery.label[nearest.indices], nearest.values, by_frequency)[:, :num])
    return torch.cat(ranked)


def _ranked(labels: Tensor, similarity: Tensor, by_frequency: Tensor) -> Tensor:
    """`[query, k]` labels and similarities (minus infinity: may not vote) to all classes, best first."""
    may_vote = similarity.isfinite()
    empty = torch.zeros(len(labels), len(by_frequency))
    votes = empty.scatter_add(1, labels, may_vote.float())
    # Rounded, so that a draw is a draw whatever order the same similarities were added in.
    support = empty.scatter_add(1, labels, similarity.where(may_vote, torch.zeros(()))).round(decimals=5)
    rarity = by_frequency.argsort().float().where(votes == 0, torch.zeros(()))  # counts where there is no vote
    order = rarity.argsort(dim=1, stable=True)  # stable sorts, the key that counts most last
    for key in (support, votes):
        order = order.gather(1, key.gather(1, order).argsort(dim=1, descending=True, stable=True))
    return order.masked_fill(~may_vote.any(dim=1, keepdim=True), -1)
