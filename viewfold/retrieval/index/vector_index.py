"""What an index of unit vectors answers wherever its rows lie, with an order that no batch size, machine or build can
change."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from viewfold.errors import ArtifactMismatch, InvalidInput
from viewfold.retrieval.index.candidates import Candidates, Fetch

MARGIN = 2e-6
"""One step of the rounding of scores and the float32 error of FAISS's own."""
CHUNK = 1 << 24
"""Numbers that the candidates of one round have, 128 MiB in float64."""

Float = TypeVar("Float", np.float32, np.float64)

_DECIMALS = 6
_SCORED = 1 << 18  # numbers gathered at a time when they are scored again: 2 MiB stay in the cache, twice as quick


@dataclass(frozen=True, eq=False)
class Hits:
    """`[query, k]`: the best rows of each query, best first; -1 with a score of -inf where no more rows were left."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float64]
    """Cosine, rounded to 1e-6."""


class VectorIndex(ABC):
    """Unit vectors that are searched by their cosine; a row is known by its position."""

    @abstractmethod
    def __len__(self) -> int:
        """How many rows there are."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of a vector."""

    @abstractmethod
    def candidates(
        self,
        vectors: NDArray[np.floating[Any]],
        fetch: int,
        *,
        allowed: NDArray[np.bool_] | None = None,
        exhaustive: bool = False,
    ) -> Candidates:
        """Up to `fetch` of the most similar rows of each of the `[query, dim]` vectors, in the order of `search`.

        `allowed` is the `[row]` mask of those that may be found; `exhaustive` looks at every one of them, whatever the
        index is.

        Raises what `search` raises.
        """

    @abstractmethod
    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """`[..., dim]`: what the index holds of these rows, of any shape; a lossy index gives what it can."""

    def search(
        self,
        vectors: NDArray[np.floating[Any]],
        k: int,
        *,
        excluded: Sequence[NDArray[np.int64]] | None = None,
        allowed: NDArray[np.bool_] | None = None,
    ) -> Hits:
        """The `k >= 1` most similar rows of each of the `[query, dim]` vectors, `[query, min(k, rows)]`.

        `excluded[i]` are rows that query i must not see, `allowed` the `[row]` mask of those that any may see. Scores
        are rounded to 1e-6 and equal ones ordered by ascending row, so that a query has the same answer alone and in a
        batch; more candidates are fetched until neither an exclusion nor a tie at the end of the list can change it. An
        approximate index is exact about what it finds; where it finds too few, all allowed rows are looked at.

        Raises:
            ArtifactMismatch: the vectors have another length than the index's.
            InvalidInput: a query is the zero vector or not finite.
        """
        width = min(k, len(self))
        hits = Hits(np.full((len(vectors), width), -1), np.full((len(vectors), width), -np.inf))
        banned = self._banned(excluded)
        self._queries(vectors)  # refused here a query has its own number, below that within one round
        for part in self.fetches(len(vectors), k):
            found = self.candidates(vectors[part.numbers], part.fetch, allowed=allowed, exhaustive=part.exhaustive)
            out = (found.rows < 0) | np.isin(part.numbers[:, None] * len(self) + found.rows, banned)
            order = np.argsort(out, axis=1, kind="stable")[:, :width]
            left = np.take_along_axis(out, order, 1)
            rows = np.where(left, -1, np.take_along_axis(found.rows, order, 1))
            scores = np.where(left, -np.inf, np.take_along_axis(found.scores, order, 1))
            missing = width - rows.shape[1]  # a small pool of allowed rows has fewer candidates
            hits.rows[part.numbers] = np.pad(rows, ((0, 0), (0, missing)), constant_values=-1)
            hits.scores[part.numbers] = np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf)
            part.retry(found, hits.scores[part.numbers, -1] <= found.floor)
        return hits

    def fetches(self, num_queries: int, k: int) -> Iterator[Fetch]:
        """What to ask `candidates` for, until every query is served: `max(10 k, 64)` first, twice that for those who
        `Fetch.retry`, and a look at every row for those whom an approximate index can give no more."""
        todo = [Fetch(np.arange(num_queries), min(len(self), max(10 * k, 64)), False, [])]
        while todo:
            asked = todo.pop()
            for numbers in chunks(asked.numbers, max(1, CHUNK // (asked.fetch * self.dim))):
                part = Fetch(numbers, asked.fetch, asked.exhaustive, [])
                yield part
                todo += part.again

    def similarity(self, vectors: NDArray[np.floating[Any]], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cosine of each of the `[query, dim]` vectors with its own `[query, m]` rows, as `search` would score them."""
        return self._scores(self._queries(vectors), rows)

    def _scores(self, queries: NDArray[np.float64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        # FAISS's own float32 scores change in the last digits with the size of the batch, enough to turn a tie round.
        scores = np.empty(rows.shape)
        wide = max(1, _SCORED // self.dim)
        high = max(1, wide // max(1, rows.shape[1]))
        for top, left in product(range(0, len(rows), high), range(0, rows.shape[1], wide)):
            block = slice(top, top + high), slice(left, left + wide)
            gathered = self.vectors(rows[block]).astype(np.float64)
            scores[block] = np.einsum("qd,qmd->qm", queries[block[0]], gathered)
        return scores.round(_DECIMALS)

    def _queries(self, vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        if vectors.shape[1] != self.dim:
            raise ArtifactMismatch(
                f"the query vectors have {vectors.shape[1]} numbers and the index holds vectors of {self.dim}; "
                "search it with the encoder that it was built with"
            )
        return unit_rows(vectors.astype(np.float64), [f"query {i}" for i in range(len(vectors))])

    def _banned(self, excluded: Sequence[NDArray[np.int64]] | None) -> NDArray[np.int64]:
        """Every pair of a query and a row it must not see, as one number."""
        pairs = [number * len(self) + rows for number, rows in enumerate(excluded or ())]
        return np.concatenate(pairs) if pairs else np.empty(0, dtype=np.int64)


def unit_rows(vectors: NDArray[Float], names: Sequence[str]) -> NDArray[Float]:
    """Each row of `[row, dim]` divided by its length, in the precision it came in.

    Raises:
        InvalidInput: a row has no direction (all zeros, nan or infinity); says which by `names`.
    """
    lengths = np.linalg.norm(vectors, axis=1)
    usable = np.isfinite(lengths) & (lengths > 0)
    if not usable.all():
        raise InvalidInput(
            f"{names[int(np.argmin(usable))]}: its vector is all zeros or not finite, so no cosine is defined; "
            "check the encoder"
        )
    unit: NDArray[Float] = vectors / lengths[:, None]
    return unit


def chunks(numbers: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """`numbers` in pieces of at most `size`."""
    return [numbers[i : i + size] for i in range(0, len(numbers), size)]
