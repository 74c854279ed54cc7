"""How long mining takes: its rules beside the same rules in NetworkX, and a node's cost among 10**4 and 10**6.

Synthetic unit vectors around random directions, twenty for each, two nodes to a track, on one thread in float32. The
rules (mutual lists to cliques to edges to their closure) are timed on one neighbour table that both sides get; the cost
of a node is that of all of mining: k-means, search inside of parents, the rules. Peak memory is that of the whole
fresh process that mines, its vectors and its libraries included (Linux). The last line printed is the record, as JSON.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import networkx as nx  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from benchmarks.measure import Comparison, Label, Row, compare, compared, isolated, lower, run_suite, worst_case
from viewfold.jobs.mine import MineConfig, Mined, mine_vectors
from viewfold.retrieval import neighbour_table
from viewfold.retrieval.index.kmeans import kmeans
from viewfold.ssl.mining import (
    clique_edges,
    edge_purity,
    mutual_cliques,
    parents_of,
    track_edges,
    transitive_edges,
)

Ints = NDArray[np.int64]
Pairs = set[tuple[int, int]]

TARGETS = {"vs_networkx": 50.0, "vs_networkx_maximal_cliques": 25.0}
"""How often our rules should fit into the peer's time, at least."""
LABELS = {
    "vs_networkx": Label(what="mining rules, 10^4 images", beside="NetworkX, all cliques enumerated"),
    "vs_networkx_maximal_cliques": Label(
        what="mining rules, 10^4 images", beside="NetworkX's maximal cliques, and their parts"
    ),
    "cost_per_node_1e6_over_1e4": Label(what="cost of an image among 10^6", beside="its cost among 10^4", less=True),
    "seconds_1e6": Label(what="mining 10^6 vectors of 128 numbers", unit="s", less=True),
    "peak_gib_1e6": Label(what="peak memory of mining them, libraries included", unit="GiB", less=True),
}
NEIGHBOURS = 10
CLIQUE = 4
PER_PARENT = 1500
"""Nodes of a parent cluster on average; their number decides what search inside of parents costs a node."""
PER_GROUP = 20
PER_TRACK = 2
_GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Numbers of nodes and their vectors' length; smaller in tests."""

    small: int = 10**4
    large: int = 10**6
    dim: int = 128


FULL = Scale()


@dataclass(frozen=True)
class Cost:
    """One run of mining and the process it ran in."""

    seconds: float
    libraries_bytes: int
    """What the process holds before it begins."""
    peak_bytes: int
    edges: dict[str, int]
    purity: float | None
    """Share of inter edges inside of a group."""


def clustered_vectors(num_nodes: int, dim: int) -> NDArray[np.float32]:
    """Unit vectors, `PER_GROUP` in a row around each random direction; made in parts, with no second copy of all."""
    random = np.random.default_rng(0)
    vectors = np.empty((num_nodes, dim), dtype=np.float32)
    for start in range(0, num_nodes, 1000 * PER_GROUP):
        part = vectors[start : start + 1000 * PER_GROUP]
        centres = random.standard_normal((1000, dim), dtype=np.float32).repeat(PER_GROUP, axis=0)[: len(part)]
        noisy = centres + 0.7 * random.standard_normal(part.shape, dtype=np.float32)
        part[:] = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
    return vectors


def tracks(num_nodes: int) -> Ints:
    """The track of each node: neighbours in number, so of one group."""
    return np.arange(num_nodes) // PER_TRACK


def num_parents(num_nodes: int) -> int:
    """As many as make them `PER_PARENT` nodes each."""
    return max(2, num_nodes // PER_PARENT)


def mined(vectors: NDArray[np.float32]) -> Mined:
    """All that is done with vectors, every edge kept: what `cost_per_node` times."""
    config = MineConfig(
        pca_dim=0,
        num_parents=num_parents(len(vectors)),
        neighbours=NEIGHBOURS,
        clique=CLIQUE,
        max_transitive=10**9,
    )
    return mine_vectors(vectors, tracks(len(vectors)), config)


def neighbours_inside_parents(vectors: NDArray[np.float32]) -> Ints:
    """`[node, k]`: what the rules work on, here as one table of all nodes."""
    table = np.full((len(vectors), NEIGHBOURS), -1)
    parent = kmeans(vectors, num_parents(len(vectors)), seed=0)
    for one in parents_of(vectors, parent, tracks(len(vectors))):
        rows = neighbour_table(one.vectors, NEIGHBOURS, apart=one.track).rows
        table[one.nodes] = np.where(rows >= 0, one.nodes[rows], -1)
    return table


def our_rules(table: Ints, track: Ints) -> tuple[Ints, Ints, Ints]:
    """Inter, intra and transitive edges."""
    inter, intra = clique_edges(mutual_cliques(table, CLIQUE)), track_edges(track)
    return inter, intra, transitive_edges(inter, intra)


def cliques_by_size(graph: nx.Graph) -> Iterator[list[int]]:
    """The function that NetworkX has for cliques by their size; it gives them in order of it."""
    for clique in nx.enumerate_all_cliques(graph):
        if len(clique) > CLIQUE:
            return
        if len(clique) == CLIQUE:
            yield clique


def cliques_of_maximal(graph: nx.Graph) -> Iterator[tuple[int, ...]]:
    """A quicker way: the groups of the right size in each maximal clique, some of them more than once."""
    for clique in nx.find_cliques(graph):
        yield from combinations(clique, CLIQUE)


PEERS: dict[str, Callable[[nx.Graph], Iterator[Any]]] = {
    "vs_networkx": cliques_by_size,
    "vs_networkx_maximal_cliques": cliques_of_maximal,
}


def networkx_rules(
    table: Ints, track: Ints, cliques: Callable[[nx.Graph], Iterator[Any]]
) -> tuple[Pairs, Pairs, Pairs]:
    """The same edges, by graphs and sets."""
    lists = nx.DiGraph()
    lists.add_nodes_from(range(len(table)))
    lists.add_edges_from((row, other) for row, others in enumerate(table.tolist()) for other in others if other >= 0)
    mutual = lists.to_undirected(reciprocal=True)
    inter = {(min(pair), max(pair)) for clique in cliques(mutual) for pair in combinations(clique, 2)}
    of_track: dict[int, list[int]] = {}
    for node, number in enumerate(track.tolist()):
        of_track.setdefault(number, []).append(node)
    intra = {pair for nodes in of_track.values() for pair in combinations(nodes, 2)}
    partners: nx.Graph = nx.Graph(intra)
    partners.add_nodes_from(range(len(table)))
    transitive = {
        (min(one, other), max(one, other))
        for a, b in inter
        for one in (a, *partners[a])
        for other in (b, *partners[b])
        if one != other
    }
    return inter, intra, transitive - inter - intra


def rules_compared(peer: str, scale: Scale, repeats: int) -> Comparison:
    """Both sides in turns, once it is certain that they find the same edges."""
    with threadpool_limits(1):
        table, track = neighbours_inside_parents(clustered_vectors(scale.small, scale.dim)), tracks(scale.small)
    found = [{(a, b) for a, b in edges.tolist()} for edges in our_rules(table, track)]
    expected = networkx_rules(table, track, PEERS[peer])
    assert found == list(expected), "the two sides found different edges"
    assert all(found), "no edges of some kind: nothing is compared"
    return compare(lambda: our_rules(table, track), lambda: networkx_rules(table, track, PEERS[peer]), repeats=repeats)


def cost_of_mining(num_nodes: int, scale: Scale) -> Cost:
    """Mine once, after a smaller run in which libraries are loaded."""
    libraries = _status("VmRSS")
    with threadpool_limits(1):
        mined(clustered_vectors(min(num_nodes, scale.small), scale.dim))
        vectors = clustered_vectors(num_nodes, scale.dim)
        start = time.perf_counter()
        edges = mined(vectors).edges
        seconds = time.perf_counter() - start
    counts = {kind: len(pairs) for kind, pairs in edges.items()}
    purity = edge_purity(edges["inter"], np.arange(num_nodes) // PER_GROUP)
    return Cost(seconds, libraries, _status("VmHWM"), counts, purity)


def _status(name: str) -> int:
    """`VmRSS`: bytes that this process holds; `VmHWM`: the most that it has held since it began."""
    found = re.search(rf"^{name}:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None, f"no {name} in /proc/self/status"
    return int(found[1]) * 1024


def cost_rows(scale: Scale, repeats: int) -> Iterator[Row]:
    """The cost of a node among many beside that among few; then the seconds and the memory that many take."""
    few, many = ([isolated(cost_of_mining, size, scale) for _ in range(repeats)] for size in (scale.small, scale.large))
    per_node = Comparison([one.seconds / scale.small for one in few], [one.seconds / scale.large for one in many])
    value, low, high = per_node.ratio()
    facts = {**vars(scale), "repeats": repeats, "device": "cpu"}
    yield {
        "name": "cost_per_node_1e6_over_1e4",
        **facts,
        "value": value,
        "low": low,
        "high": high,
        "small_s": float(np.median([one.seconds for one in few])),
        "large_s": float(np.median([one.seconds for one in many])),
        "target": 3.0,
        "met": value <= 3.0,
    }
    seconds = float(np.median([one.seconds for one in many]))
    yield {"name": "seconds_1e6", **facts, "value": seconds, **many[0].edges, "inter_purity": many[0].purity}
    peak, libraries = max((one.peak_bytes / _GIB, one.libraries_bytes / _GIB) for one in many)
    held = {"libraries_gib": libraries, "vectors_gib": 4 * scale.large * scale.dim / _GIB}
    yield {"name": "peak_gib_1e6", **facts, "value": peak, **held}


def rows(repeats: int, scale: Scale = FULL) -> Iterator[Row]:
    """All measurements, one by one."""
    for name in PEERS:
        yield compared(name, TARGETS[name], isolated(rules_compared, name, scale, repeats), nodes=scale.small)
    yield from cost_rows(scale, min(repeats, 3))


def facts(measured: list[Row]) -> dict[str, Any]:
    """The worst case of each name, and what one must know to read the rows."""
    return {
        "worst_case": worst_case(measured, lower_is_better=lower(LABELS)),
        "notes": [
            f"{NEIGHBOURS} neighbours, cliques of {CLIQUE}, {PER_PARENT} nodes a parent, tracks of {PER_TRACK} nodes, "
            f"groups of {PER_GROUP} around random directions",
            "vs_networkx: from one neighbour table to the three edge sets, the same ones on both sides; NetworkX by "
            "enumerate_all_cliques, and in a quicker way by the groups of four in each of find_cliques",
            "cost_per_node, seconds: `mine_vectors`: k-means, search inside of parents, rules; no PCA, no Ray",
            "peak_gib: the whole fresh process, its libraries and its vectors included",
            "cost_per_node is flattered: the million has a third of the inter edges per image of the ten thousand",
        ],
    }


if __name__ == "__main__":
    packages = ("networkx", "faiss-cpu", "numpy")
    run_suite("mining", rows, about=__doc__, repeats=9, packages=packages, labels=LABELS, facts=facts)
