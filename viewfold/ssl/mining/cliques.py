"""Cliques of the mutual nearest-neighbour graph: small groups that are all in each other's lists."""

import numpy as np
from numpy.typing import NDArray

from viewfold.ssl.mining.codes import cuts, pair_codes, positions_in_runs, within

_PAIRS = 1 << 16  # candidate pairs tested at a time, half a MiB for each array of them


def mutual_cliques(neighbours: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Every group of `size >= 2` rows that are all in each other's lists: `[clique, size]`, ascending, in order.

    `neighbours` is `[row, k]`, -1 where there are fewer; no row is in its own list, or in any list twice. Groups may
    overlap. Which groups there are does not depend on how the rows are numbered. (Child clusters, arXiv:1708.02901.)
    """
    first, second = _mutual_pairs(neighbours)
    members = np.arange(len(neighbours))[:, None]
    for _ in range(size - 2):
        members = np.column_stack([members[first], members[second, -1]])
        first, second = _linked(first, second, len(members))
    return np.column_stack([members[first], members[second, -1]])


def _mutual_pairs(neighbours: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs of rows that are in each other's lists, as smaller and larger row, in ascending order."""
    num_rows, k = neighbours.shape
    other = neighbours.ravel()
    codes = np.sort(pair_codes(np.repeat(np.arange(num_rows), k), other, num_rows)[other >= 0])
    twice = codes[1:][codes[1:] == codes[:-1]]  # once from each end's list
    return twice // max(1, num_rows), twice % max(1, num_rows)


def _linked(
    first: NDArray[np.int64], second: NDArray[np.int64], num_nodes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The graph whose nodes are the edges of this one, numbered in order, and whose edges are its triangles.

    Edges (a, b) and (a, c) are linked if there is an edge (b, c). A clique of s nodes here is one of s - 1 nodes there,
    by its smallest node's edges, so that after s - 2 such steps a clique is an edge.
    """
    codes = first * num_nodes + second
    ends = np.cumsum(np.bincount(first, minlength=num_nodes))
    later = ends[first] - 1 - np.arange(len(first))  # edges after each one with the same smaller node
    kept = [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))]
    for part in np.split(np.arange(len(first)), cuts(later, _PAIRS)):
        one = np.repeat(part, later[part])
        other = one + 1 + positions_in_runs(later[part])
        closed = within(second[one] * num_nodes + second[other], codes)
        kept.append((one[closed], other[closed]))
    return np.concatenate([one for one, _ in kept]), np.concatenate([other for _, other in kept])
