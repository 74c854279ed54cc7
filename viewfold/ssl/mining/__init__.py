"""Which images show the same kind of thing, found without labels: the rules of arXiv:1708.02901 over neighbour tables.

Nodes are numbers 0..n-1, each with a vector of unit length, a parent cluster (`without_small_parents` drops the small
ones) and a track. Inter edges: `parent_edges` for each of `parents_of(...)`, anywhere and in any order. Intra edges:
`track_edges`. Then `transitive_edges`. Edge sets are int64 `[edge, 2]`, smaller node first, each once, ascending.
Pure functions on numpy arrays; nearest-neighbour search is handed in (`viewfold.retrieval.neighbour_table` fits).
"""

from viewfold.ssl.mining.cliques import mutual_cliques
from viewfold.ssl.mining.edges import clique_edges, edge_purity, track_edges, transitive_edges
from viewfold.ssl.mining.parents import (
    ParentNodes,
    Search,
    Table,
    parent_edges,
    parents_of,
    without_small_parents,
)

__all__ = [
    "ParentNodes",
    "Search",
    "Table",
    "clique_edges",
    "edge_purity",
    "mutual_cliques",
    "parent_edges",
    "parents_of",
    "track_edges",
    "transitive_edges",
    "without_small_parents",
]
