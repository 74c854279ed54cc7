"""Unit vectors in FAISS. The only importer of faiss: what else needs it gets it by `load_faiss`."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewfold.errors import InvalidInput, MissingDependency
from viewfold.retrieval.index.candidates import Candidates
from viewfold.retrieval.index.pushdown import better_exact, search_parameters, takes_selectors
from viewfold.retrieval.index.vector_index import CHUNK, MARGIN, VectorIndex, chunks

METRIC = "cosine"

_OPQ_CENTROIDS = 256  # OPQ learns its rotation with 8-bit codes, whatever the index behind it uses


class CosineIndex(VectorIndex):
    """Unit vectors in a FAISS index under the inner product."""

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
        """See `VectorIndex`."""
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

    def candidates(
        self,
        vectors: NDArray[np.floating[Any]],
        fetch: int,
        *,
        allowed: NDArray[np.bool_] | None = None,
        exhaustive: bool = False,
    ) -> Candidates:
        """See `VectorIndex`; the mask is a selector inside of FAISS, and where it leaves little the few are scored one
        by one."""
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
            floor=np.where(complete | dry, -np.inf, found[:, -1].astype(np.float64) + MARGIN),
            complete=complete | (dry & exhaustive),
            dry=dry,
        )

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `VectorIndex`."""
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
        for part in chunks(pool, max(1, (CHUNK >> 2) // self.dim)):
            found = np.concatenate([found, wanted @ self.vectors(part).T], axis=1)
            rows = np.concatenate([rows, np.broadcast_to(part, (len(queries), len(part)))], axis=1)
            if rows.shape[1] > fetch:
                best = np.argpartition(-found, fetch - 1, axis=1)[:, :fetch]
                found, rows = np.take_along_axis(found, best, 1), np.take_along_axis(rows, best, 1)
        order = np.argsort(-found, axis=1, kind="stable")
        return np.take_along_axis(found, order, 1), np.take_along_axis(rows, order, 1)


def nearest(gallery: NDArray[np.floating[Any]], queries: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """The row of `gallery` with the largest inner product, for each of the `[query, dim]` vectors, by exact search."""
    index = load_faiss().IndexFlatIP(gallery.shape[1])
    index.add(np.ascontiguousarray(gallery, dtype=np.float32))
    rows: NDArray[np.int64] = index.search(np.ascontiguousarray(queries, dtype=np.float32), 1)[1][:, 0]
    return rows


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
