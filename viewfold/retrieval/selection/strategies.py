"""Where candidates come from: one function for each strategy, each giving pool rows in order of preference."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from viewfold.errors import InvalidInput
from viewfold.keyed import generator
from viewfold.retrieval.index.bundle import IndexBundle
from viewfold.retrieval.index.candidates import Candidates, Fetch
from viewfold.retrieval.selection.columns import PoolColumns
from viewfold.retrieval.selection.demos import Query
from viewfold.retrieval.selection.filters import Eligible, label_counts, with_label
from viewfold.retrieval.selection.select_config import SelectConfig


@dataclass(frozen=True, eq=False)
class Request:
    """One batch of queries and what they may be shown."""

    bundle: IndexBundle
    pool: PoolColumns
    eligible: Eligible
    queries: Sequence[Query]
    vectors: NDArray[np.floating]
    """`[query, dim]`."""
    config: SelectConfig
    labels: Sequence[str] | None
    """The true label of each query, for `oracle` alone."""

    @cached_property
    def label_counts(self) -> NDArray[np.int64]:
        """`[label]`: eligible rows that carry each, counted once for the batch."""
        return label_counts(self.eligible, self.pool)


def nearest_rows(request: Request, part: Fetch) -> Candidates:
    """The nearest by cosine: TopKNearestPR, and on the index of an adapted encoder InvariantSelectPR."""
    return request.bundle.index.candidates(
        request.vectors[part.numbers], part.fetch, allowed=request.eligible.mask, exhaustive=part.exhaustive
    )


def drawn_rows(request: Request, part: Fetch) -> Candidates:
    """Drawn uniformly without replacement, for each query by its id: RandomPR."""
    mask, total = request.eligible.mask, request.eligible.total
    fetch = min(part.fetch, total)
    if not fetch:
        return Candidates.none(len(part.numbers))
    draws = [generator("random demonstrations", request.config.seed, request.queries[n].id) for n in part.numbers]
    rows = np.stack([draw.choice(total, fetch, replace=False) for draw in draws])
    rows = rows if mask is None else np.flatnonzero(mask)[rows]
    every = np.full(len(rows), fetch == total)
    scores = request.bundle.index.similarity(request.vectors[part.numbers], rows)
    return Candidates(rows, scores, np.full(len(rows), -np.inf), every, every)


def same_class_rows(request: Request, part: Fetch) -> Candidates:
    """The nearest among those of the query's own class, which it is told: the ceiling of any selection."""
    assert request.labels is not None
    wanted = np.array([request.labels[number] for number in part.numbers], dtype=object)
    empty = np.full((len(wanted), part.fetch), -1)
    yes = np.ones(len(wanted), dtype=bool)
    merged = Candidates(empty, np.full(empty.shape, -np.inf), np.full(len(wanted), -np.inf), yes, yes.copy())
    for label in sorted(set(wanted)):
        where = np.flatnonzero(wanted == label)
        found = request.bundle.index.candidates(
            request.vectors[part.numbers[where]],
            part.fetch,
            allowed=with_label(request.eligible, request.pool, label).mask,
            exhaustive=part.exhaustive,
        )
        width = found.rows.shape[1]
        merged.rows[where, :width], merged.scores[where, :width] = found.rows, found.scores
        merged.floor[where], merged.complete[where], merged.dry[where] = found.floor, found.complete, found.dry
    return merged


SELECTORS: dict[str, Callable[[Request, Fetch], Candidates]] = {
    "random": drawn_rows,
    "nearest": nearest_rows,
    "invariant": nearest_rows,
    "oracle": same_class_rows,
}


def check_labels(config: SelectConfig, queries: Sequence[Query], labels: Sequence[str] | None) -> None:
    """Refuse an oracle that knows nothing, and labels for anyone else.

    Raises:
        InvalidInput: labels are missing, too few, or given to another strategy.
    """
    if (config.strategy == "oracle") != (labels is not None):
        raise InvalidInput(f"strategy {config.strategy!r}: the queries' labels are for 'oracle', and it needs them")
    if labels is not None and len(labels) != len(queries):
        raise InvalidInput(f"{len(labels)} labels for {len(queries)} queries; give one for each")
