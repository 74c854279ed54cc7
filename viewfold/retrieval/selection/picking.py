"""From candidates to choices for a whole batch, asking for more candidates where guards or quotas leave too few."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from viewfold.retrieval.index.candidates import Candidates
from viewfold.retrieval.selection.diversity import Chosen, choose
from viewfold.retrieval.selection.guards import GUARDS, Guards
from viewfold.retrieval.selection.quota import QuotaConfig
from viewfold.retrieval.selection.strategies import SELECTORS, Request

QUOTA_FETCH = 2048
"""A quota that this many candidates cannot meet is given up, with a warning; a rarer class wants a filter."""


@dataclass(frozen=True, eq=False)
class Picks:
    """Choices of a batch, in the order of choice."""

    rows: NDArray[np.int64]
    """`[query, k]`; -1 where nothing more could be chosen."""
    scores: NDArray[np.float64]
    """`[query, k]`: cosine."""
    looked_at: NDArray[np.int64]
    """`[query]`: candidates."""
    hits: NDArray[np.int64]
    """`[query, guard]`: candidates that each guard hit first."""
    unmet: NDArray[np.bool_]
    """`[query]`: whether the quota asks for what the choices do not have."""


def picked(request: Request, guards: Guards) -> Picks:
    """Choose for every query. Only candidates that no row left out could tie with are chosen from, so that an answer
    depends on the pool and not on where a list happened to end."""
    num, k = len(request.queries), request.config.k
    picks = Picks(
        rows=np.full((num, k), -1),
        scores=np.full((num, k), -np.inf),
        looked_at=np.zeros(num, dtype=np.int64),
        hits=np.zeros((num, len(GUARDS)), dtype=np.int64),
        unmet=np.zeros(num, dtype=bool),
    )
    if k == 0:
        return picks
    needs = _needs(request)
    for part in request.bundle.index.fetches(num, k):
        found = SELECTORS[request.config.strategy](request, part)
        hit = guards.screen(part.numbers, found.rows, found.scores)
        open_ = (hit == 0) & (found.scores > found.floor[:, None])
        chosen = _chosen(request, found, open_)
        rows = np.take_along_axis(found.rows, np.maximum(chosen.places, 0), 1)
        scores = np.take_along_axis(found.scores, np.maximum(chosen.places, 0), 1)
        missing = chosen.places < 0
        picks.rows[part.numbers] = np.where(missing, -1, rows)
        picks.scores[part.numbers] = np.where(missing, -np.inf, scores)
        picks.looked_at[part.numbers] = np.count_nonzero(hit >= 0, axis=1)
        picks.hits[part.numbers] = (hit[:, :, None] == np.arange(1, len(GUARDS) + 1)).sum(axis=1)
        unmet = _unmet(request.config.quota, chosen, missing, needs)
        picks.unmet[part.numbers] = unmet
        few = np.count_nonzero(open_, axis=1) < k
        part.retry(found, few | (unmet & (part.fetch < QUOTA_FETCH) & (needs <= k)))
    return picks


def _chosen(request: Request, found: Candidates, open_: NDArray[np.bool_]) -> Chosen:
    held = np.maximum(found.rows, 0)
    quota = request.config.quota
    column = request.pool.domain if quota.column == "domain" else request.pool.label
    return choose(
        found.scores,
        open_,
        request.config.k,
        quota=quota,
        codes=lambda: column.codes[held],
        lam=request.config.diversity.lam,
        vectors=lambda: request.bundle.index.vectors(held).astype(np.float64),
    )


def _needs(request: Request) -> int:
    """How many choices `min_per_class` asks for, of the classes that the filters leave; 0 for another rule."""
    quota = request.config.quota
    return int(np.minimum(request.label_counts, quota.per_class).sum()) if quota.rule == "min_per_class" else 0


def _unmet(quota: QuotaConfig, chosen: Chosen, missing: NDArray[np.bool_], needs: int) -> NDArray[np.bool_]:
    if chosen.counted is not None and quota.rule == "min_per_class":
        met = np.minimum(chosen.counted.chosen, quota.per_class).sum(axis=1)
        return np.asarray(met < needs)
    if quota.rule == "max_per_class":
        return np.asarray(missing.any(axis=1))
    return np.zeros(len(missing), dtype=bool)
