"""Clusters from affinities: spectral clustering (Ng, Jordan & Weiss 2001; normalised Laplacian), dense or sparse.

n rows. A graph in several connected parts is solved part by part: the spectrum of the whole is that of its parts, and
within a connected part the eigenvalue 1 is simple, which a Lanczos solver needs in order not to miss copies of it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from viewfold.errors import InvalidInput
from viewfold.keyed import generator
from viewfold.ssl.evaluate.centroids import k_means

_DENSE_ROWS = 1500  # up to here a full eigen-solver takes about a second
_CRUMB = 0.1  # a part smaller than this share of a mean cluster gets no cluster of its own


class _Part(NamedTuple):
    """A connected part of the graph."""

    rows: NDArray[np.int64]
    values: NDArray[np.float64]
    """The largest eigenvalues of D^-1/2 A D^-1/2, largest first."""
    vectors: NDArray[np.float64]
    """`[row of the part, eigenvalue]`."""


def spectral_clusters(affinity: Any, num_clusters: int, *, seed: int = 0) -> NDArray[np.int64]:
    """`[row]`: the cluster of each row, numbered from the largest; `affinity` is `[row, row]`, at least 0.

    A dense tensor or array, or any SciPy sparse matrix. It is symmetrised, (A + A')/2, and its diagonal is not used.
    Rows of the leading eigenvectors of the normalised affinities, brought to length 1, are clustered by k-means.
    Where the graph falls into at least as many connected parts as clusters, the largest parts are the clusters and the
    last cluster holds all remaining ones. Rows that are linked to nothing, and parts smaller than a tenth of a mean
    cluster, have nothing that tells where they belong: they join the largest cluster.

    Raises:
        InvalidInput: `affinity` is not square, finite and at least 0, or `num_clusters` lies outside 1..rows.
    """
    return spectral_clusterings(affinity, [num_clusters], seed=seed)[num_clusters]


def spectral_clusterings(affinity: Any, candidates: Sequence[int], *, seed: int = 0) -> dict[int, NDArray[np.int64]]:
    """`spectral_clusters` for several numbers of clusters, from one decomposition."""
    graph = _graph(affinity)
    num_rows = graph.shape[0]
    for number in candidates:
        if not 1 <= number <= num_rows:
            raise InvalidInput(f"spectral clustering: the number of clusters must lie in 1..{num_rows}, got {number}")
    parts = _parts(graph, max(candidates))
    return {number: _from_parts(parts, number, num_rows, seed) for number in candidates}


def knn_affinity(rows: NDArray[np.int64], scores: NDArray[np.float32], *, eta: float) -> Any:
    """Sparse symmetric affinities `[row, row]` from a table of neighbours: the sparse stand-in for MLC's Gamma.

    `rows` `[row, k]` are the neighbours of each row, -1 where there are fewer; `scores` `[row, k]` the kernel there.
    Weights are exp(score / eta), made to sum to 1 over each row's neighbours, then symmetrised as (W + W')/2.
    """
    from scipy.sparse import csr_array

    there = rows >= 0
    exponent = np.where(there, scores, -np.inf).astype(np.float64) / eta
    highest = exponent.max(axis=1, initial=-np.inf, keepdims=True)
    weights = np.exp(exponent - np.where(np.isfinite(highest), highest, 0.0))
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    start = np.concatenate([[0], there.sum(axis=1).cumsum()])
    one_sided = csr_array((weights[there], rows[there], start), shape=(len(rows), len(rows)))
    return (one_sided + one_sided.T) / 2


def _graph(affinity: Any) -> Any:
    """The symmetric float64 affinities with an empty diagonal, as a sparse matrix without stored zeros."""
    from scipy.sparse import csr_array, diags_array, issparse

    if isinstance(affinity, Tensor):
        affinity = affinity.detach().cpu().double().numpy()
    own = affinity.tocsr() if issparse(affinity) else np.asarray(affinity, dtype=np.float64)
    if own.ndim != 2 or own.shape[0] != own.shape[1]:
        raise InvalidInput(f"spectral clustering: the affinities must be square, got {tuple(own.shape)}")
    own = csr_array(own, dtype=np.float64)
    if not np.isfinite(own.data).all() or (own.data < 0).any():
        raise InvalidInput("spectral clustering: affinities must be finite and at least 0; take |.| of a signed kernel")
    both = csr_array((own + own.T) / 2)
    graph = csr_array(both - diags_array(both.diagonal()))
    graph.eliminate_zeros()
    return graph


def _parts(graph: Any, num_vectors: int) -> list[_Part]:
    """The connected parts of two rows and more, from the largest; equally large ones by their first row."""
    from scipy.sparse.csgraph import connected_components

    num_parts, of_row = connected_components(graph, directed=False)
    sizes = np.bincount(of_row, minlength=num_parts)
    largest_first = [part for part in np.argsort(-sizes, kind="stable") if sizes[part] > 1]
    members = np.split(np.argsort(of_row, kind="stable"), np.cumsum(sizes)[:-1])
    return [
        _Part(members[part], *_leading(graph[members[part]][:, members[part]], num_vectors)) for part in largest_first
    ]


def _leading(graph: Any, num_vectors: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Largest eigenvalues first, with their vectors `[row, vector]`, of the normalised affinities of a connected part.

    They are 1 minus the smallest eigenvalues of the normalised Laplacian, and found faster at this end.
    """
    from scipy.linalg import eigh
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import eigsh

    num_rows = graph.shape[0]
    number = min(num_vectors, num_rows)
    inverse_root = diags_array(1 / np.sqrt(graph.sum(axis=0)))
    normalised = inverse_root @ graph @ inverse_root
    if num_rows <= max(_DENSE_ROWS, 4 * number):
        values, vectors = eigh(normalised.toarray(), subset_by_index=[num_rows - number, num_rows - 1])
    else:
        start = generator("first Lanczos vector", num_rows).standard_normal(num_rows)
        values, vectors = eigsh(normalised, k=number, which="LA", v0=start)
    order = np.argsort(-values, kind="stable")
    values = np.minimum(values[order], np.nextafter(1.0, 0.0))
    values[0] = 1.0  # exactly so of a connected part; rounding must not let another part's second pass it
    return values, vectors[:, order]


def _from_parts(parts: list[_Part], num_clusters: int, num_rows: int, seed: int) -> NDArray[np.int64]:
    """`[row]` clusters, numbered from the largest."""
    kept = [part for part in parts if len(part.rows) >= _CRUMB * num_rows / num_clusters]
    if not kept:
        return np.zeros(num_rows, dtype=np.int64)
    rows = np.concatenate([part.rows for part in kept])
    if len(kept) >= num_clusters:
        # What k-means would find: parts are orthogonal points of the embedding, and joining the smallest costs least.
        found = np.concatenate([np.full(len(part.rows), min(rank, num_clusters - 1)) for rank, part in enumerate(kept)])
    else:
        found = k_means(_embedding(kept, num_clusters), min(num_clusters, len(rows)), seed=seed)
    cluster = np.full(num_rows, -1)
    cluster[rows] = _largest_first(found)
    return np.where(cluster < 0, 0, cluster).astype(np.int64)


def _embedding(parts: list[_Part], dim: int) -> NDArray[np.float64]:
    """Unit rows `[row, dim]`, part after part: the leading eigenvectors of all of them."""
    owner = np.concatenate([np.full(len(part.values), index) for index, part in enumerate(parts)])
    column = np.concatenate([np.arange(len(part.values)) for part in parts])
    leading = np.argsort(-np.concatenate([part.values for part in parts]), kind="stable")[:dim]
    embedding = np.zeros((sum(len(part.rows) for part in parts), len(leading)))
    first_row = np.cumsum([0] + [len(part.rows) for part in parts])
    for position, pair in enumerate(leading):
        part = owner[pair]
        embedding[first_row[part] : first_row[part + 1], position] = parts[part].vectors[:, column[pair]]
    return np.asarray(embedding / np.linalg.norm(embedding, axis=1, keepdims=True))


def _largest_first(found: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same clusters, numbered from the largest; equally large ones by their first row."""
    _, first, sizes = np.unique(found, return_index=True, return_counts=True)
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    return rank[np.unique(found, return_inverse=True)[1]]
