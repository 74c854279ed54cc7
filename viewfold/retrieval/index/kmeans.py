"""Clusters of unit vectors by FAISS's spherical k-means, in two levels where there are many."""

import math

import numpy as np
from numpy.typing import NDArray

from viewfold.errors import InvalidInput
from viewfold.retrieval.index.faiss_index import load_faiss

MANY = 256
"""With more clusters than this, rows are split into about sqrt(clusters) parts first, and each part then."""
_PER_CENTROID = 256  # rows that a centroid is trained on, at most; more change it little
_STEPS = 20
_CHUNK = 1 << 16  # rows assigned at a time


def kmeans(vectors: NDArray[np.float32], num_clusters: int, *, seed: int) -> NDArray[np.int64]:
    """The cluster, `0..num_clusters - 1`, of each row of `[row, dim]`, whose rows have unit length.

    Spherical k-means: a row goes to the centroid with the largest cosine. Centroids are trained on at most 256 rows for
    each. With more than `MANY` clusters there are about sqrt(num_clusters) coarse ones, each of which is split into
    clusters in proportion to its rows: work for a row grows with the root of their number, and clusters are more even.
    The same vectors, number and seed give the same clusters; one may be left without rows.

    Raises:
        InvalidInput: there are fewer rows than clusters.
    """
    if not 1 <= num_clusters <= len(vectors):
        raise InvalidInput(f"{num_clusters} clusters of {len(vectors)} vectors: name a number from 1 to {len(vectors)}")
    if num_clusters <= MANY:
        return _flat(vectors, num_clusters, seed)
    coarse = _flat(vectors, math.isqrt(num_clusters), seed)
    members = np.split(np.argsort(coarse, kind="stable"), np.cumsum(np.bincount(coarse))[:-1])
    members = [rows for rows in members if rows.size]
    cluster = np.empty(len(vectors), dtype=np.int64)
    first = 0
    for rows, share in zip(members, _shares([rows.size for rows in members], num_clusters), strict=True):
        cluster[rows] = first + _flat(vectors[rows], share, seed)
        first += share
    return cluster


def _shares(sizes: list[int], num_clusters: int) -> list[int]:
    """Clusters of each part in proportion to its rows, `num_clusters` in all: one or more, no more than it has rows."""
    spare = np.array(sizes) - 1
    ends = np.cumsum(spare) * (num_clusters - len(sizes)) // max(1, int(spare.sum()))
    shares: list[int] = (1 + np.diff(ends, prepend=0)).tolist()
    return shares


def _flat(vectors: NDArray[np.float32], num_clusters: int, seed: int) -> NDArray[np.int64]:
    if num_clusters == 1:
        return np.zeros(len(vectors), dtype=np.int64)
    trained = load_faiss().Kmeans(
        vectors.shape[1],
        num_clusters,
        niter=_STEPS,
        seed=seed,
        spherical=True,
        max_points_per_centroid=_PER_CENTROID,
        min_points_per_centroid=1,  # fewer make worse clusters, and FAISS would print a warning about it
    )
    trained.train(vectors)
    cluster = np.empty(len(vectors), dtype=np.int64)
    for start in range(0, len(vectors), _CHUNK):
        cluster[start : start + _CHUNK] = trained.index.search(vectors[start : start + _CHUNK], 1)[1][:, 0]
    return cluster
