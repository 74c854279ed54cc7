"""Cosine search by FAISS, with an order that no batch size, machine or build can change. The only importer of faiss.

What else needs FAISS gets it by `load_faiss`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from viewfold.errors import ArtifactMismatch, InvalidInput, MissingDependency
from viewfold.retrieval.candidates import Candidates, Fetch
from viewfold.retrieval.pushdown import better_exact, search_parameters, takes_selectors

METRIC = "cosine"
Float = TypeVar("Float", np.float32, np.float64)

_DECIMALS = 6
_MARGIN = 2e-6  # one step of the rounding and the float32 error of FAISS's own scores
_OPQ_CENTROIDS = 256  # OPQ learns its rotation with 8-bit codes, whatever the index behind it uses
_CHUNK = 1 << 24  # numbers that the candidates of one round have, 128 MiB in float64
_SCORED = 1 << 18  # numbers gathered at a time when they are scored again: 2 MiB stay in the cache, twice as quick


@dataclass(frozen=True, eq=False)
class Hits:
    """`[query, k]`: the best rows of each query, best first; -1 with a score of -inf where no more rows were left."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float64]
    """Cosine, rounded to 1e-6."""


class CosineIndex:
    """Unit vectors in a FAISS index under the inner product; a row is known by its position."""

    def __init__(self, index: Any) -> None:
        """`index` is a trained and filled FAISS index; the class methods make one."""
        self._index = index
        ivf = load_faiss().try_extract_index_ivf(index)
        if ivf is not None:
            ivf.make_direct_map()  # inverted lists give vectors back by row only with it

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def faiss_index(self) -> Any:
        """The FAISS index itself, for what is not asked here."""
        return self._index

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self._index.d)

    @classmethod
    def build(cls, vectors: NDArray[np.float32], factory: str) -> "CosineIndex":
        """An index of `[row, dim]` unit vectors, trained on all of them; `factory` is any FAISS factory string.

        Raises:
            InvalidInput: FAISS does not know the string, cannot build it for this length of vectors, or wants more
                vectors to train it than there are.
        """
        faiss = load_faiss()
        num_rows, dim = vectors.shape
        try:
            index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
            check_training_size(index, factory, num_rows)
            index.train(vectors)
            index.add(vectors)
            built = cls(index)
            built._index.reconstruct_batch(np.zeros(1, dtype=np.int64))  # scores are computed from what it gives back
        except RuntimeError as error:
            raise InvalidInput(
                f"factory {factory!r}: FAISS refuses it for {num_rows} vectors of {dim} numbers "
                f"({refusal(error)}); 'Flat' always works"
            ) from None
        return built

    @classmethod
    def read(cls, path: Path) -> "CosineIndex":
        """Read what `write` wrote; check the file's sha256 before, since FAISS trusts what it reads."""
        try:
            return cls(load_faiss().read_index(str(path)))
        except RuntimeError as error:
            raise InvalidInput(f"{path}: FAISS cannot read this index ({refusal(error)}); build it again") from None

    def write(self, path: Path) -> None:
        """Write the index in FAISS's own format."""
        load_faiss().write_index(self._index, str(path))

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
            for numbers in _chunks(asked.numbers, max(1, _CHUNK // (asked.fetch * self.dim))):
                part = Fetch(numbers, asked.fetch, asked.exhaustive, [])
                yield part
                todo += part.again

    def candidates(
        self,
        vectors: NDArray[np.floating[Any]],
        fetch: int,
        *,
        allowed: NDArray[np.bool_] | None = None,
        exhaustive: bool = False,
    ) -> Candidates:
        """Up to `fetch` of the most similar rows of each of the `[query, dim]` vectors, in the order of `search`.

        The `[row]` mask `allowed` is a selector inside of FAISS, and where it leaves little the few are scored one by
        one. `exhaustive` looks at every allowed row whatever the index is.
        """
        faiss = load_faiss()
        queries = self._queries(vectors)
        total = len(self) if allowed is None else int(np.count_nonzero(allowed))
        if not total or not len(queries):
            return Candidates.none(len(queries))
        if allowed is not None:
            exhaustive |= better_exact(allowed) or not takes_selectors(faiss, self._index)
        if exhaustive:
            pool = np.arange(len(self)) if allowed is None else np.flatnonzero(allowed)
            found, rows = self._looked_through(queries, pool, fetch)
        else:
            parameters = search_parameters(faiss, self._index, allowed)
            found, rows = self._index.search(queries.astype(np.float32), fetch, params=parameters)
        scores = np.where(rows < 0, -np.inf, self._scores(queries, np.maximum(rows, 0)))
        order = np.lexsort((np.where(rows < 0, len(self), rows), -scores))
        complete = (rows >= 0).sum(axis=1) >= total
        dry = rows[:, -1] < 0
        return Candidates(
            rows=np.take_along_axis(rows, order, 1),
            scores=np.take_along_axis(scores, order, 1),
            floor=np.where(complete | dry, -np.inf, found[:, -1].astype(np.float64) + _MARGIN),
            complete=complete | (dry & exhaustive),
            dry=dry,
        )

    def similarity(self, vectors: NDArray[np.floating[Any]], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cosine of each of the `[query, dim]` vectors with its own `[query, m]` rows, as `search` would score them."""
        return self._scores(self._queries(vectors), rows)

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """`[..., dim]`: what the index holds of these rows, of any shape; a lossy index gives what it can."""
        stored: NDArray[np.float32] = self._index.reconstruct_batch(np.ascontiguousarray(rows).ravel())
        return stored.reshape(*rows.shape, self.dim)

    def _looked_through(
        self, queries: NDArray[np.float64], pool: NDArray[np.int64], fetch: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The `fetch` best of the rows in `pool`, by float32 scores, best first, as FAISS's own search gives them."""
        wanted = queries.astype(np.float32)
        fetch = min(fetch, len(pool))
        rows = np.empty((len(queries), 0), dtype=np.int64)
        found = np.empty((len(queries), 0), dtype=np.float32)
        for part in _chunks(pool, max(1, (_CHUNK >> 2) // self.dim)):
            found = np.concatenate([found, wanted @ self.vectors(part).T], axis=1)
            rows = np.concatenate([rows, np.broadcast_to(part, (len(queries), len(part)))], axis=1)
            if rows.shape[1] > fetch:
                best = np.argpartition(-found, fetch - 1, axis=1)[:, :fetch]
                found, rows = np.take_along_axis(found, best, 1), np.take_along_axis(rows, best, 1)
        order = np.argsort(-found, axis=1, kind="stable")
        return np.take_along_axis(found, order, 1), np.take_along_axis(rows, order, 1)

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


def nearest(gallery: NDArray[np.floating[Any]], queries: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """The row of `gallery` with the largest inner product, for each of the `[query, dim]` vectors, by exact search."""
    index = load_faiss().IndexFlatIP(gallery.shape[1])
    index.add(np.ascontiguousarray(gallery, dtype=np.float32))
    rows: NDArray[np.int64] = index.search(np.ascontiguousarray(queries, dtype=np.float32), 1)[1][:, 0]
    return rows


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


def load_faiss() -> Any:
    try:
        import faiss
    except ModuleNotFoundError:
        raise MissingDependency("the index needs faiss: pip install 'viewfold[retrieval]'") from None
    return faiss


def check_training_size(index: Any, factory: str, num_rows: int) -> None:
    """Below FAISS's own minimum per centroid it would train all the same, and only print a warning."""
    per_centroid = load_faiss().ClusteringParameters().min_points_per_centroid
    centroids = num_centroids(index)
    if num_rows < per_centroid * centroids:
        raise InvalidInput(
            f"factory {factory!r}: to train {centroids} centroids takes {per_centroid * centroids} vectors, there are "
            f"{num_rows}; use 'Flat', or at most {num_rows // per_centroid} centroids"
        )


def num_centroids(index: Any) -> int:
    """The largest codebook that training has to fill; 0 where there is none."""
    faiss = load_faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        steps = [faiss.downcast_VectorTransform(index.chain.at(i)) for i in range(index.chain.size())]
        rotated = any(isinstance(step, faiss.OPQMatrix) for step in steps)
        return max(_OPQ_CENTROIDS if rotated else 0, num_centroids(index.index))
    if isinstance(index, faiss.IndexRefine):
        return num_centroids(index.base_index)
    if isinstance(index, faiss.IndexHNSW):
        return num_centroids(index.storage)
    centroids = index.nlist if isinstance(index, faiss.IndexIVF) else 0
    if isinstance(index, (faiss.IndexPQ, faiss.IndexIVFPQ, faiss.IndexPQFastScan, faiss.IndexIVFPQFastScan)):
        centroids = max(centroids, index.pq.ksub)
    return int(centroids)


def refusal(error: RuntimeError) -> str:
    """The last clause of FAISS's message; what stands before it are its own functions, files and lines."""
    clause = re.sub(r"^Error in .* at \S+:\d+: ", "", " ".join(str(error).split()))
    return clause.rsplit("failed: ", 1)[-1].removeprefix("Error: ").rstrip(".; ")


def _chunks(numbers: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [numbers[i : i + size] for i in range(0, len(numbers), size)]
