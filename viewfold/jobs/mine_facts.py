"""What was mined, in numbers: counts, and how often the two ends of an edge turn out to carry the same label."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewfold.jobs.mine_graph import Edges
from viewfold.keyed import generator
from viewfold.pipeline.partners import KINDS
from viewfold.ssl.mining import edge_purity

_RESAMPLES = 500


def counted(parent: NDArray[np.int64], track: NDArray[np.int64], edges: Mapping[str, Edges]) -> dict[str, Any]:
    """Nodes, tracks, parents and edges."""
    return {
        "nodes": len(parent),
        "tracks": len(np.unique(track)),
        "tracks_with_inter": len(np.unique(track[edges["inter"]])),
        "parents": int(parent.max()) + 1,
        "nodes_without_parent": int((parent < 0).sum()),
        "counts": {kind: len(edges[kind]) for kind in KINDS},
    }


def purity(
    edges: Mapping[str, Edges], label: NDArray[np.int64], group: NDArray[np.int64], *, seed: int
) -> dict[str, dict[str, Any]]:
    """By kind: the share of edges with the same label at both ends, of those `labelled` at both, and its interval.

    `label` and `group`, `[node]`, -1 for no label. The interval is a 95 % percentile bootstrap over groups: an edge
    counts as often as the groups at its two ends are drawn, one times the other. None where there is nothing to tell.
    """
    found = {}
    for kind in KINDS:
        ends = edges[kind]
        known = ends[(label[ends] >= 0).all(axis=1)]
        low, high = _interval(label[known[:, 0]] == label[known[:, 1]], group[known], seed=seed)
        found[kind] = {"share": edge_purity(known, label), "low": low, "high": high, "labelled": len(known)}
    return found


def chance(label: NDArray[np.int64], track: NDArray[np.int64]) -> float | None:
    """Share of the same label among all pairs of labelled images of different tracks; None without such a pair."""
    known = label >= 0
    same = _pairs(label[known])
    within = _pairs(track[known])
    within_same = _pairs(track[known] * (1 + int(label.max())) + label[known])
    pairs = known.sum() ** 2 - within
    return float((same - within_same) / pairs) if pairs else None


def summary(facts: Mapping[str, Any]) -> str:
    """The facts of `mine` as lines of text."""
    deleted = f"; deleted below {facts['settings']['min_parent']} images: {facts['parents_deleted']}, whose "
    deleted += f"{facts['nodes_without_parent']} images have no parent"
    lines = [
        f"{facts['nodes']:,} images in {facts['tracks']:,} tracks, {facts['tracks_with_inter']:,} with inter edges",
        f"parents: {facts['parents']}{deleted if facts['parents_deleted'] else ''}",
        f"{'edges':12}{'number':>12}   same label at both ends",
    ]
    for kind in KINDS:
        lines.append(f"{kind:12}{facts['counts'][kind]:12,}   {purity_text(facts['purity'][kind], facts['chance'])}")
    if facts["parents"] == 1:
        lines.append("with one parent there are no negatives of another; raise num_parents, or lower min_parent")
    if facts["transitive_found"] > facts["counts"]["transitive"]:
        lines.append(
            f"transitive edges are a uniform sample of {facts['transitive_found']:,}; max_transitive keeps more"
        )
    return "\n".join(lines)


def purity_text(found: Mapping[str, Any], by_chance: float | None) -> str:
    """The purity of one kind of edges, its interval and what chance would give, in words."""
    if found["share"] is None:
        return "no labels to compare with"
    interval = "" if found["low"] is None else f" ({100 * found['low']:.1f} to {100 * found['high']:.1f})"
    text = f"{100 * found['share']:.1f} %{interval} of {found['labelled']:,} with labels"
    return text if by_chance is None else f"{text}; by chance {100 * by_chance:.1f} %"


def _pairs(names: NDArray[np.int64]) -> int:
    """Ordered pairs of places with the same name, each with itself too."""
    return int((np.unique(names, return_counts=True)[1] ** 2).sum())


def _interval(same: NDArray[np.bool_], group: NDArray[np.int64], *, seed: int) -> tuple[float | None, float | None]:
    """Ends of the interval of the mean of `same`, `[edge]`, with the groups `[edge, 2]` at the edges' ends."""
    names, ends = np.unique(group, return_inverse=True)
    if len(names) < 2:
        return None, None
    ends = np.sort(ends.reshape(-1, 2), axis=1)
    pair, place = np.unique(ends[:, 0] * len(names) + ends[:, 1], return_inverse=True)
    total, agreeing = np.bincount(place), np.bincount(place, weights=same)
    first, second = np.divmod(pair, len(names))
    rng = generator("purity interval", seed)
    means = []
    for _ in range(_RESAMPLES):
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)))
        weight = np.where(first == second, drawn[first], drawn[first] * drawn[second])
        if weight.any():
            means.append(weight @ agreeing / (weight @ total))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
