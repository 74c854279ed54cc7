"""The nearest rows of each row, by exact search: the table that mining and clustering read instead of vectors."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from viewfold.retrieval.index.faiss_index import load_faiss

_DECIMALS = 6
_MARGIN = 2e-6  # one step of the rounding and the float32 error of FAISS's own scores, for vectors of unit length
_CHUNK = 1 << 22  # numbers gathered at a time when candidates are scored again, 32 MiB in float64
_SPARE = 4  # candidates beyond those that are needed, so that few queries end in a tie with what was not fetched
_GROUP = 64  # a larger group is fetched only for the queries that turn out to need it
_TIED = 1024  # candidates among which a tie is settled; of vectors that are all the same, all would be fetched


class NeighbourTable(NamedTuple):
    """`[row, k]`: the nearest other rows of each row, nearest first."""

    rows: NDArray[np.int64]
    """-1 where no more rows were left."""
    scores: NDArray[np.float32]
    """Inner product, rounded to 1e-6; -inf where `rows` is -1."""


def neighbour_table(vectors: NDArray[np.float32], k: int, *, apart: NDArray[np.int64] | None = None) -> NeighbourTable:
    """The `k` rows with the largest inner product with each row of `[row, dim]`, itself left out; exact.

    `apart` holds a number for each row, and rows of the same number are not neighbours of one another. Scores are
    computed in float64, rounded to 1e-6 and equal ones ordered by ascending row; more candidates are fetched until
    neither an exclusion nor a tie at the end of the list can change it, so the table depends on the vectors alone (of
    more than a thousand rows in one tie, those that FAISS meets first are taken). Rows of unit length make it a table
    of cosines. Holds the vectors twice, and little beside the table.
    """
    num_rows = len(vectors)
    group = np.arange(num_rows) if apart is None else np.unique(apart, return_inverse=True)[1]
    table = NeighbourTable(np.full((num_rows, k), -1), np.full((num_rows, k), -np.inf, dtype=np.float32))
    if num_rows == 0:
        return table
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    index = load_faiss().IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    margin = _MARGIN * max(1.0, float(np.einsum("nd,nd->n", vectors, vectors).max()))
    pending = np.arange(num_rows)
    fetch = min(num_rows, k + min(int(np.bincount(group).max()), _GROUP) + _SPARE)
    while pending.size:
        unsettled = []
        for chunk in _chunks(pending, max(1, _CHUNK // (fetch * vectors.shape[1]))):
            found, rows = index.search(vectors[chunk], fetch)
            scores = _scores(vectors, chunk, rows)
            scores[group[rows] == group[chunk, None]] = -np.inf
            _keep_best(table, chunk, rows, scores)
            last = table.scores[chunk, -1]
            unsettled.append(chunk[last <= (found[:, -1] + margin if fetch < _TIED else -np.inf)])
        pending = np.concatenate(unsettled) if fetch < num_rows else pending[:0]
        fetch = min(num_rows, 2 * fetch)
    return table


def _keep_best(
    table: NeighbourTable, chunk: NDArray[np.int64], rows: NDArray[np.int64], scores: NDArray[np.float64]
) -> None:
    """Write the first k candidates in final order into the table; -inf marks those that may not be there."""
    rows = np.where(scores == -np.inf, -1, rows)
    order = np.lexsort((rows, -scores))[:, : table.rows.shape[1]]
    width = order.shape[1]
    table.rows[chunk, :width] = np.take_along_axis(rows, order, 1)
    table.scores[chunk, :width] = np.take_along_axis(scores, order, 1)


def _scores(vectors: NDArray[np.float32], queries: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    # FAISS's own float32 scores change in the last digits with the size of the batch, enough to turn a tie round.
    pairs = np.einsum("qd,qmd->qm", vectors[queries].astype(np.float64), vectors[rows].astype(np.float64))
    return np.asarray(pairs.round(_DECIMALS))


def _chunks(numbers: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    return (numbers[start : start + size] for start in range(0, len(numbers), size))
