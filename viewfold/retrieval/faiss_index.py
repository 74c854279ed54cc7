"""Cosine search by FAISS, with an order that no batch size, machine or build can change. The only importer of faiss.

What else needs FAISS gets it by `load_faiss`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from viewfold.errors import ArtifactMismatch, InvalidInput, MissingDependency

METRIC = "cosine"
Float = TypeVar("Float", np.float32, np.float64)

_DECIMALS = 6
_MARGIN = 2e-6  # one step of the rounding and the float32 error of FAISS's own scores
_OPQ_CENTROIDS = 256  # OPQ learns its rotation with 8-bit codes, whatever the index behind it uses
_CHUNK = 1 << 24  # numbers gathered at a time when candidates are scored again, 128 MiB in float64


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
            _check_training_size(index, factory, num_rows)
            index.train(vectors)
            index.add(vectors)
            built = cls(index)
            built._index.reconstruct_batch(np.zeros(1, dtype=np.int64))  # scores are computed from what it gives back
        except RuntimeError as error:
            raise InvalidInput(
                f"factory {factory!r}: FAISS refuses it for {num_rows} vectors of {dim} numbers "
                f"({_reason(error)}); 'Flat' always works"
            ) from None
        return built

    @classmethod
    def read(cls, path: Path) -> "CosineIndex":
        """Read what `write` wrote; check the file's sha256 before, since FAISS trusts what it reads."""
        try:
            return cls(load_faiss().read_index(str(path)))
        except RuntimeError as error:
            raise InvalidInput(f"{path}: FAISS cannot read this index ({_reason(error)}); build it again") from None

    def write(self, path: Path) -> None:
        """Write the index in FAISS's own format."""
        load_faiss().write_index(self._index, str(path))

    def search(
        self,
        vectors: NDArray[np.floating[Any]],
        k: int,
        *,
        excluded: Sequence[NDArray[np.int64]] | None = None,
    ) -> Hits:
        """The `k >= 1` most similar rows of each of the `[query, dim]` vectors, `[query, min(k, rows)]`.

        `excluded[i]` are rows that query i must not see. Scores are rounded to 1e-6 and equal ones ordered by ascending
        row, so that a query has the same answer alone and in a batch; more candidates are fetched until neither an
        exclusion nor a tie at the end of the list can change it. An approximate index is exact about what it finds.

        Raises:
            ArtifactMismatch: the vectors have another length than the index's.
            InvalidInput: a query is the zero vector or not finite.
        """
        queries = self._queries(vectors)
        width = min(k, len(self))
        hits = Hits(np.full((len(queries), width), -1), np.full((len(queries), width), -np.inf))
        banned = self._banned(excluded)
        pending, fetch = np.arange(len(queries)), min(len(self), max(10 * k, 64))
        while pending.size:
            unsettled = []
            for chunk in _chunks(pending, max(1, _CHUNK // (fetch * self.dim))):
                best, floor = self._candidates(queries[chunk], fetch, chunk, banned)
                hits.rows[chunk], hits.scores[chunk] = best.rows[:, :width], best.scores[:, :width]
                unsettled.append(chunk[best.scores[:, width - 1] <= floor + _MARGIN])
            pending = np.concatenate(unsettled) if fetch < len(self) else pending[:0]
            fetch = min(len(self), 2 * fetch)
        return hits

    def similarity(self, vectors: NDArray[np.floating[Any]], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cosine of each of the `[query, dim]` vectors with its own `[query, m]` rows, as `search` would score them."""
        return self._scores(self._queries(vectors), rows)

    def _candidates(
        self,
        queries: NDArray[np.float64],
        fetch: int,
        numbers: NDArray[np.int64],
        banned: NDArray[np.int64],
    ) -> tuple[Hits, NDArray[np.float32]]:
        """`fetch` candidates of each query in final order, the banned ones last; and the lowest score among them."""
        found, rows = self._index.search(queries.astype(np.float32), fetch)
        scores = self._scores(queries, np.maximum(rows, 0))
        pairs = numbers[:, None] * len(self) + rows
        out = (rows < 0) | np.isin(pairs, banned)
        rows[out], scores[out] = -1, -np.inf
        order = np.lexsort((rows, -scores))
        return Hits(np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)), found[:, -1]

    def _scores(self, queries: NDArray[np.float64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        # FAISS's own float32 scores change in the last digits with the size of the batch, enough to turn a tie round.
        scores = np.empty(rows.shape)
        step = max(1, _CHUNK // max(1, queries.size))
        for start in range(0, rows.shape[1], step):
            part = np.ascontiguousarray(rows[:, start : start + step])
            stored = self._index.reconstruct_batch(part.ravel()).reshape(*part.shape, self.dim)
            scores[:, start : start + step] = np.einsum("qd,qmd->qm", queries, stored.astype(np.float64))
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


def _check_training_size(index: Any, factory: str, num_rows: int) -> None:
    """Below FAISS's own minimum per centroid it would train all the same, and only print a warning."""
    per_centroid = load_faiss().ClusteringParameters().min_points_per_centroid
    centroids = _num_centroids(index)
    if num_rows < per_centroid * centroids:
        raise InvalidInput(
            f"factory {factory!r}: to train {centroids} centroids takes {per_centroid * centroids} vectors, there are "
            f"{num_rows}; use 'Flat', or at most {num_rows // per_centroid} centroids"
        )


def _num_centroids(index: Any) -> int:
    """The largest codebook that training has to fill; 0 where there is none."""
    faiss = load_faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        steps = [faiss.downcast_VectorTransform(index.chain.at(i)) for i in range(index.chain.size())]
        rotated = any(isinstance(step, faiss.OPQMatrix) for step in steps)
        return max(_OPQ_CENTROIDS if rotated else 0, _num_centroids(index.index))
    if isinstance(index, faiss.IndexRefine):
        return _num_centroids(index.base_index)
    centroids = index.nlist if isinstance(index, faiss.IndexIVF) else 0
    if isinstance(index, (faiss.IndexPQ, faiss.IndexIVFPQ, faiss.IndexPQFastScan, faiss.IndexIVFPQFastScan)):
        centroids = max(centroids, index.pq.ksub)
    return int(centroids)


def _reason(error: RuntimeError) -> str:
    """The last clause of FAISS's message; what stands before it are its own functions, files and lines."""
    clause = re.sub(r"^Error in .* at \S+:\d+: ", "", " ".join(str(error).split()))
    return clause.rsplit("failed: ", 1)[-1].removeprefix("Error: ").rstrip(".; ")


def _chunks(numbers: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [numbers[i : i + size] for i in range(0, len(numbers), size)]
