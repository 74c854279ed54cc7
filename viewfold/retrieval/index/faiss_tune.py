"""What trades time for recall in a FAISS index when it is searched: how far it looks."""

from collections.abc import Callable
from typing import Any

from viewfold.retrieval.index.faiss_build import graph_of, lists_of, refine_of

_MOST = 1024


def _powers(first: int, last: int) -> list[int]:
    values = [first]
    while values[-1] * 2 <= last:
        values.append(values[-1] * 2)
    return values


KNOBS: dict[str, Callable[[Any], list[int]]] = {
    "nprobe": lambda index: _powers(1, min(_MOST, int(lists_of(index).nlist))),
    "efSearch": lambda index: _powers(16, _MOST),
    "k_factor": lambda index: [1, 2, 4, 8, 16],
}
"""Values to try, ascending: lists that are looked into, candidates of a graph, candidates for each one kept."""


def knobs_of(index: Any) -> list[str]:
    """The knobs that an index has, in the order in which they are tuned."""
    has = {"nprobe": lists_of(index), "efSearch": graph_of(index), "k_factor": refine_of(index)}
    return [name for name, owner in has.items() if owner is not None]


def set_knob(index: Any, name: str, value: int) -> None:
    """Set one knob; FAISS writes it into the index file."""
    if name == "nprobe":
        lists_of(index).nprobe = value
    elif name == "efSearch":
        graph_of(index).hnsw.efSearch = value
    else:
        refine_of(index).k_factor = float(value)
