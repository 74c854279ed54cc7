"""Sets of undirected edges as arrays: `[edge, 2]` int64, smaller node first, each once, in ascending order."""

import numpy as np
from numpy.typing import NDArray

from viewfold.ssl.mining.codes import cuts, pair_codes, positions_in_runs, unique, within

_PAIRS = 1 << 16  # candidate pairs written out at a time, half a MiB for each array of them


def clique_edges(cliques: NDArray[np.int64]) -> NDArray[np.int64]:
    """All pairs of nodes of each of the `[clique, size]` cliques, which are ascending; each pair once."""
    num_nodes = 1 + int(cliques.max(initial=-1))
    first, second = np.triu_indices(cliques.shape[1], 1)
    return _edges(unique((cliques[:, first] * num_nodes + cliques[:, second]).ravel()), num_nodes)


def track_edges(track: NDArray[np.int64]) -> NDArray[np.int64]:
    """All pairs of nodes with the same number in `track`, `[node]`: the intra-instance edges."""
    order = np.argsort(track, kind="stable")
    ends = np.searchsorted(track[order], track[order], side="right")
    later = ends - 1 - np.arange(len(track))  # nodes of its track after each one
    first = np.repeat(np.arange(len(track)), later)
    second = first + 1 + positions_in_runs(later)
    return _edges(np.sort(pair_codes(order[first], order[second], len(track))), len(track))


def transitive_edges(inter: NDArray[np.int64], intra: NDArray[np.int64]) -> NDArray[np.int64]:
    """The pairs that one inter edge and an intra edge at either end or both connect: arXiv:1708.02901.

    With E the inter and N the intra edges as symmetric 0/1 matrices, the positive entries of (I + N) E (I + N)' off the
    diagonal that neither E nor N has. No path holds two inter edges, which would drift from one kind of thing to the
    next. Candidates are made in parts; what it holds are the edges given and the answer, a few times over.
    """
    num_nodes = 1 + max(int(inter.max(initial=-1)), int(intra.max(initial=-1)))
    starts, reached = _reached(intra, num_nodes)
    degree = np.diff(starts)
    both = np.concatenate([inter, intra])
    known = unique(pair_codes(both[:, 0], both[:, 1], num_nodes))
    found = [np.empty(0, dtype=np.int64)]
    for part in np.split(inter, cuts(degree[inter].prod(axis=1), _PAIRS)):
        left, right = part.T
        # Every node that the left end reaches, with every node that the right end reaches.
        width = np.repeat(degree[right], degree[left])
        a = np.repeat(reached[np.repeat(starts[left], degree[left]) + positions_in_runs(degree[left])], width)
        b = reached[np.repeat(np.repeat(starts[right], degree[left]), width) + positions_in_runs(width)]
        codes = unique(pair_codes(a, b, num_nodes)[a != b])
        found.append(codes[~within(codes, known)])
    return _edges(unique(np.concatenate(found)), num_nodes)


def edge_purity(edges: NDArray[np.int64], label: NDArray[np.int64]) -> float | None:
    """Share of the edges whose ends carry the same label, `[node]`; None if no edge has a label (-1: none) at both."""
    first, second = label[edges].T
    labelled = (first >= 0) & (second >= 0)
    return float((first == second)[labelled].mean()) if labelled.any() else None


def _reached(intra: NDArray[np.int64], num_nodes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each node itself and those that an intra edge leads to: where its run starts, `[node + 1]`, and the runs."""
    itself = np.arange(num_nodes)
    origin = np.concatenate([itself, intra[:, 0], intra[:, 1]])
    target = np.concatenate([itself, intra[:, 1], intra[:, 0]])
    starts = np.zeros(num_nodes + 1, dtype=np.int64)
    np.cumsum(np.bincount(origin, minlength=num_nodes), out=starts[1:])
    return starts, target[np.argsort(origin, kind="stable")]


def _edges(codes: NDArray[np.int64], num_nodes: int) -> NDArray[np.int64]:
    return np.stack(np.divmod(codes, max(1, num_nodes)), axis=1)
