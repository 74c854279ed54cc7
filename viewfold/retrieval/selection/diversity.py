"""Choosing from candidates one by one: the nearest, or by maximal marginal relevance, within what a quota admits."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from viewfold.config import Config, check_ranges
from viewfold.retrieval.selection.quota import QuotaConfig, Tally, admitted, tally


@dataclass(frozen=True, kw_only=True)
class DiversityConfig(Config):
    """Maximal marginal relevance (Carbonell and Goldstein 1998)."""

    lam: float = 1.0
    """Each choice maximises lam * cosine to the query - (1 - lam) * largest cosine to a choice before it. 1 is plain
    nearest selection; 0 asks for nothing but difference."""

    def __post_init__(self) -> None:
        check_ranges(self, lam=(0, 1))


@dataclass(frozen=True, eq=False)
class Chosen:
    """Places among the candidates, in the order of choice."""

    places: NDArray[np.int64]
    """`[query, k]`; -1 where nothing more could be chosen."""
    counted: Tally | None
    """The quota's count; None without a quota."""


def choose(
    scores: NDArray[np.float64],
    open_: NDArray[np.bool_],
    k: int,
    *,
    quota: QuotaConfig,
    codes: Callable[[], NDArray[np.int32]],
    lam: float,
    vectors: Callable[[], NDArray[np.float64]],
) -> Chosen:
    """Choose up to `k` of each query's `[query, candidate]` candidates that are `open_`; they stand best first.

    Equal values go to the earlier candidate. `codes` (what the quota counts) and `vectors` (`[query, candidate, dim]`)
    are called only where they are needed.
    """
    if quota.rule == "none" and lam == 1:
        places = np.argsort(~open_, axis=1, kind="stable")[:, :k]
        places = np.where(np.take_along_axis(open_, places, 1), places, -1)
        return Chosen(np.pad(places, ((0, 0), (0, k - places.shape[1])), constant_values=-1), None)
    each = np.arange(len(scores))
    counted = None if quota.rule == "none" else tally(quota, codes(), scores, open_, k)
    space = vectors() if lam < 1 else None
    # In order of candidates and not of scores: what was drawn at random stands in the order of the draw.
    worth = -np.arange(scores.shape[1])[None].repeat(len(scores), axis=0) if space is None else lam * scores
    likeness = np.full(scores.shape, -np.inf)
    left, places = open_.copy(), np.full((len(scores), k), -1)
    for step in range(k):
        may = left if counted is None else admitted(quota, counted, left, k - step)
        place = np.where(may, worth, -np.inf).argmax(axis=1)
        found = may[each, place]
        places[found, step] = place[found]
        left[each[found], place[found]] = False
        if counted is not None:
            counted.chosen[each[found], counted.value[each, place][found]] += 1
        if space is not None:
            near = np.einsum("qmd,qd->qm", space, space[each, place]).round(6)
            likeness = np.maximum(likeness, near)
            worth = (lam * scores - (1 - lam) * likeness).round(9)
    return Chosen(places, counted)
