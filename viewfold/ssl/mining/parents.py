"""Mining inside parent clusters: one parent needs nothing of another, so they can be done anywhere, in any order."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from viewfold.ssl.mining.cliques import mutual_cliques
from viewfold.ssl.mining.edges import clique_edges


@runtime_checkable
class Table(Protocol):
    """What a search answers with."""

    @property
    def rows(self) -> NDArray[np.int64]:
        """`[row, k]`: the nearest rows of each row, -1 where there are fewer."""


@runtime_checkable
class Search(Protocol):
    """Nearest neighbours among the rows themselves; rows with the same number in `apart` are not neighbours."""

    def __call__(self, vectors: NDArray[np.float32], k: int, *, apart: NDArray[np.int64] | None) -> Table:
        """`[row, k]` for vectors `[row, dim]`."""


class ParentNodes(NamedTuple):
    """One parent: all that finding its cliques takes."""

    nodes: NDArray[np.int64]
    """Numbers of its nodes, ascending."""
    vectors: NDArray[np.float32]
    """`[node, dim]`: theirs, in the same order."""
    track: NDArray[np.int64]
    """`[node]`: nodes of one track are never linked by an inter edge."""


def without_small_parents(parent: NDArray[np.int64], min_nodes: int) -> NDArray[np.int64]:
    """`parent`, `[node]`, with -1 for the nodes of parents of fewer than `min_nodes` nodes.

    The others are numbered anew from 0, in the order of the old numbers.
    """
    kept, old, sizes = np.unique(parent, return_inverse=True, return_counts=True)
    large = (sizes >= min_nodes) & (kept >= 0)
    return np.asarray(np.where(large, np.cumsum(large) - 1, -1)[old], dtype=np.int64)


def parents_of(
    vectors: NDArray[np.float32], parent: NDArray[np.int64], track: NDArray[np.int64]
) -> Iterator[ParentNodes]:
    """Each parent with its nodes' vectors and tracks, one at a time; `parent` is `[node]`, -1 for none."""
    order = np.argsort(parent, kind="stable")
    for nodes in np.split(order, np.flatnonzero(np.diff(parent[order])) + 1):
        if nodes.size and parent[nodes[0]] >= 0:
            yield ParentNodes(nodes, vectors[nodes], track[nodes])


def parent_edges(one: ParentNodes, *, search: Search, k: int, size: int) -> NDArray[np.int64]:
    """The inter-instance edges of one parent, in numbers of all nodes: all pairs of its `mutual_cliques`.

    `search` finds the `k` nearest of each node; ascending, since the parent's nodes are.
    """
    table = search(one.vectors, k, apart=one.track)
    edges: NDArray[np.int64] = one.nodes[clique_edges(mutual_cliques(table.rows, size))]
    return edges
