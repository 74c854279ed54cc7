"""How good and how fast an index is, held against exact search over the vectors, block by block."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from viewfold.retrieval.index.faiss_index import CosineIndex
from viewfold.retrieval.index.faiss_tune import KNOBS, knobs_of, set_knob
from viewfold.retrieval.index.vector_index import VectorIndex

RECALL_AT = (1, 10, 100)
_TIMED = 50  # queries that latency is measured on, one at a time
_SCORES = 1 << 20  # scores held at a time
_GATHERED = 1 << 20  # numbers of candidates that a search gathers at a time: it looks at ten for each one asked for
_NEAR = 1e-6  # a row this close to the exact k-th is as near


@dataclass(frozen=True, eq=False)
class Asked:
    """Queries with their exact answer: what an index is measured on."""

    queries: NDArray[np.float32]
    """`[query, dim]` unit vectors."""
    rows: NDArray[np.int64]
    """`[query]`: the row that a query is of, which does not count as found; -1 for a new image."""
    best: NDArray[np.float32]
    """`[query, k]`: the exact largest cosines, descending, without the query's own row."""
    alive: NDArray[np.bool_] | None
    """`[row]`: what was not removed; None where nothing was."""


class Rows(Protocol):
    """Unit vectors that are read by rows: a `VectorFile`, or what an index gives back."""

    @property
    def num_rows(self) -> int:
        """How many there are."""

    def blocks(self, num_rows: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """First row and vectors of one block after the other."""

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of these rows."""


@dataclass(frozen=True)
class StoredVectors:
    """The vectors of an index that keeps them as they were given to it."""

    index: VectorIndex

    @property
    def num_rows(self) -> int:
        """How many there are."""
        return len(self.index)

    def blocks(self, num_rows: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """First row and vectors of one block after the other."""
        for first in range(0, len(self.index), num_rows):
            yield first, self.take(np.arange(first, min(first + num_rows, len(self.index))))

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of these rows."""
        return self.index.vectors(rows)


def ask_exactly(
    vectors: Rows,
    queries: NDArray[np.float32],
    rows: NDArray[np.int64],
    *,
    alive: NDArray[np.bool_] | None,
    block_rows: int,
) -> Asked:
    """The exact best cosines of each query over all vectors but its own and those removed."""
    best = np.full((len(queries), max(RECALL_AT)), -np.inf, dtype=np.float32)
    for first, block in vectors.blocks(min(block_rows, max(256, _SCORES // max(1, len(queries))))):
        scores = queries @ block.T
        inside = np.flatnonzero((rows >= first) & (rows < first + len(block)))
        scores[inside, rows[inside] - first] = -np.inf
        if alive is not None:
            scores[:, ~alive[first : first + len(block)]] = -np.inf
        if scores.shape[1] > best.shape[1]:
            scores = np.partition(scores, -best.shape[1], axis=1)[:, -best.shape[1] :]
        best = -np.sort(-np.concatenate([best, scores], axis=1), axis=1)[:, : max(RECALL_AT)]
    others = (vectors.num_rows if alive is None else int(alive.sum())) - int((rows >= 0).any())
    return Asked(queries, rows, best[:, : max(1, others)], alive)


def measured_recall(index: VectorIndex, vectors: Rows, asked: Asked, k: int) -> float:
    """Share of the exact `k` nearest that the index finds, the query's own row left out.

    A row that is as near as the exact k-th counts as found, so that copies of an image are no misses. 1 where a query
    has nothing to find.
    """
    k = min(k, asked.best.shape[1])
    kth = asked.best[:, k - 1]
    if not np.isfinite(kth).all():
        return 1.0
    hits, step = 0, max(1, _GATHERED // (10 * k * index.dim))
    for first in range(0, len(kth), step):
        part = slice(first, first + step)
        queries, own = asked.queries[part], _own(asked.rows[part])
        found = index.search(queries, k, excluded=own, allowed=asked.alive).rows
        stored = vectors.take(np.maximum(found, 0).ravel()).reshape(*found.shape, -1)
        scores = np.where(found >= 0, np.einsum("qd,qkd->qk", queries, stored), -np.inf)
        hits += int((scores >= kth[part, None] - _NEAR).sum())
    return hits / (len(kth) * k)


def latency_ms(index: VectorIndex, queries: NDArray[np.float32], k: int = 10) -> float:
    """Median milliseconds of a search for one query."""
    taken = []
    for query in queries[:_TIMED]:
        began = time.perf_counter()
        index.search(query[None], k)
        taken.append(time.perf_counter() - began)
    return round(float(np.median(taken)) * 1e3, 4)


def tune(index: Any, vectors: Rows, asked: Asked, target: float, k: int = 10) -> dict[str, float]:
    """Set the knobs of a raw FAISS index to the smallest that reach `target` recall at `k`, or to the largest tried.

    The knobs (`nprobe`, `efSearch`, `k_factor`) are kept in the index file; what was chosen is returned.
    """
    wrapped, chosen = CosineIndex(index), dict[str, float]()
    for name in knobs_of(index):  # one knob at its smallest must not hide what another can do
        set_knob(index, name, KNOBS[name](index)[-1])

    def reaches(name: str, value: int) -> bool:
        set_knob(index, name, value)
        return measured_recall(wrapped, vectors, asked, k) >= target

    for name in knobs_of(index):
        values = KNOBS[name](index)
        low, high = 0, len(values) - 1
        while low < high:  # recall grows with each knob
            middle = (low + high) // 2
            low, high = (low, middle) if reaches(name, values[middle]) else (middle + 1, high)
        set_knob(index, name, values[low])
        chosen[name] = float(values[low])
    return chosen


def _own(rows: NDArray[np.int64]) -> list[NDArray[np.int64]] | None:
    return [row[row >= 0] for row in rows[:, None]] if (rows >= 0).any() else None
