"""Edges between images: the rules of mining (arXiv:1708.02901) put together with search, in bounded memory.

Nodes are numbers; nothing here knows an image, a label or a shard.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from viewfold.keyed import key64, mixed
from viewfold.retrieval.index.kmeans import kmeans
from viewfold.retrieval.index.neighbours import neighbour_table
from viewfold.retrieval.index.pca import principal_components
from viewfold.ssl.mining import (
    ParentNodes,
    parent_edges,
    parents_of,
    track_edges,
    transitive_edges,
    without_small_parents,
)

Intra = Literal["all", "ends"]
Edges = NDArray[np.int64]
"""`[edge, 2]`: node numbers, the smaller one first, in ascending order, each edge once."""
Map = Callable[[Callable[[ParentNodes], Edges], Iterable[ParentNodes]], Iterable[Edges]]
"""A function of each item, in their order: `map`, or one that distributes."""


class Closure(NamedTuple):
    """Transitive edges."""

    edges: Edges
    found: int
    """All that there are; `edges` may be a sample of them."""


def compact(vectors: NDArray[np.float32], dim: int, *, seed: int) -> NDArray[np.float32]:
    """Unit rows along their `dim` principal components, of unit length again; as given where `dim` is 0 or no fewer."""
    if dim == 0 or dim >= vectors.shape[1]:
        return vectors
    components = principal_components(vectors, dim, seed=seed)
    length = np.linalg.norm(components, axis=1, keepdims=True)
    return np.asarray(components / np.maximum(length, np.finfo(np.float32).tiny))


def parents(vectors: NDArray[np.float32], num_parents: int, *, least: int, seed: int) -> NDArray[np.int64]:
    """`[node]`: number of its k-means cluster among unit rows; -1 in clusters of fewer than `least` nodes."""
    return without_small_parents(kmeans(vectors, min(num_parents, len(vectors)), seed=seed), least)


def inter_edges(
    vectors: NDArray[np.float32],
    parent: NDArray[np.int64],
    track: NDArray[np.int64],
    *,
    neighbours: int,
    clique: int,
    over: Map = map,
) -> Edges:
    """Pairs of images of different tracks in one parent: all pairs of every mutual clique.

    A clique is `clique` images each of which has all others among its `neighbours` nearest of other tracks. `over`
    does the parents.
    """
    one_parent = partial(parent_edges, search=neighbour_table, k=neighbours, size=clique)
    found = [np.empty((0, 2), dtype=np.int64), *over(one_parent, parents_of(vectors, parent, track))]
    return _ascending(np.concatenate(found))


def supported(inter: Edges, track: NDArray[np.int64], least: int) -> Edges:
    """Those of the edges whose two tracks are joined by `least` of them or more.

    Tracks of many images are closed pair by pair, so one stray edge would weigh as much as a hundred.
    """
    _, pair, counts = np.unique(_track_pairs(inter, track), return_inverse=True, return_counts=True)
    return inter[counts[pair] >= least]


def intra_edges(track: NDArray[np.int64], which: Intra) -> Edges:
    """Pairs of images of one track: `all` of them, or the `ends`, its first and its last image."""
    if which == "all":
        return track_edges(track)
    order = np.argsort(track, kind="stable")
    starts = np.flatnonzero(np.diff(track[order], prepend=-1))
    ends = np.append(starts[1:], len(order)) - 1
    return _ascending(np.stack([order[starts], order[ends]], axis=1)[starts < ends])


def close(
    inter: Edges, intra: Edges, track: NDArray[np.int64], *, most: int, seed: int, at_once: int = 1 << 22
) -> Closure:
    """What one inter edge joins by the intra edges at its ends, less what is an edge already.

    Of more than `most`, a uniform sample that is a function of the edges and `seed` alone. About `at_once` pairs are
    made at a time (all of two tracks at least), which takes some 100 bytes for each.
    """
    held, found = np.empty((0, 2), dtype=np.int64), 0
    for own in _by_tracks(inter, track, at_once):
        # A pair of images of two tracks comes of inter edges between these two: no other part makes it again.
        here = np.zeros(int(track.max()) + 1, dtype=bool)
        here[track[own]] = True
        new = transitive_edges(own, intra[here[track[intra[:, 0]]]])
        found += len(new)
        held = _least(np.concatenate([held, new]), most, len(track), seed)
    return Closure(_ascending(held), found)


def _by_tracks(inter: Edges, track: NDArray[np.int64], at_once: int) -> Iterator[Edges]:
    """The edges in parts whose closures stay small; those that join the same two tracks are in one part."""
    pair = _track_pairs(inter, track)
    order = np.argsort(pair, kind="stable")
    starts = np.flatnonzero(np.diff(pair[order], prepend=-1))
    made = np.cumsum(np.bincount(track)[track[inter[order[starts]]]].prod(axis=1))
    cuts = starts[np.flatnonzero(np.diff(made // at_once)) + 1]
    return (inter[rows] for rows in np.split(order, cuts) if len(rows))


def _track_pairs(edges: Edges, track: NDArray[np.int64]) -> NDArray[np.int64]:
    """One number for the two tracks that each edge joins."""
    ends = np.sort(track[edges], axis=1)
    return np.asarray(ends[:, 0] * len(track) + ends[:, 1])


def _least(edges: Edges, most: int, num_nodes: int, seed: int) -> Edges:
    """The `most` edges with the least keyed numbers: the same ones in whatever parts the edges come."""
    if len(edges) <= most:
        return edges
    drawn = mixed((edges[:, 0] * num_nodes + edges[:, 1]).astype(np.uint64) ^ np.uint64(key64("transitive", seed)))
    return edges[np.argpartition(drawn, most - 1)[:most]]


def _ascending(edges: Edges) -> Edges:
    return edges[np.lexsort((edges[:, 1], edges[:, 0]))]
