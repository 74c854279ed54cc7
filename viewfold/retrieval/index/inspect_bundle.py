"""What a bundle is, for people and as plain data; and how it answers new images."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from viewfold.retrieval.features_stream import VectorSource
from viewfold.retrieval.index.build_measure import ask_exactly, latency_ms, measured_recall
from viewfold.retrieval.index.bundle import INDEX, IndexBundle
from viewfold.retrieval.index.factory import show_bytes
from viewfold.retrieval.index.lineage import check_lineage
from viewfold.retrieval.index.vector_index import unit_rows

_MOST_QUERIES = 1000
_PRECISION_AT = (1, 10)


def inspected(folder: Path) -> dict[str, Any]:
    """Lineage, index, quality and contents of a bundle, after its files were checked."""
    bundle = IndexBundle.open(folder)
    facts = dataclasses.asdict(bundle.info)
    del facts["score_histogram"], facts["files"]
    shown = bundle.records.filter(bundle.alive)
    counts = {}
    for column in ("domain", "label"):
        found = shown.column(column).value_counts().to_pylist()
        counts[f"{column}s"] = {str(entry["values"]): entry["counts"] for entry in found}
    return facts | counts | {"images": shown.num_rows, "index_bytes": (folder / INDEX).stat().st_size}


def inspection(facts: dict[str, Any]) -> str:
    """`inspected` as a table."""
    looks = ", ".join(f"{name}={value:g}" for name, value in facts["search"].items()) or "everywhere"
    recalls = ", ".join(f"@{k} {facts[f'recall_at_{k}']:.4f}" for k in (1, 10, 100))
    rows = {
        "bundle": facts["id"],
        "made by": " <- ".join([facts["change"], *facts["parents"]]),
        "encoder": f"{facts['encoder_id']} ({facts['part']}), base {facts['base_encoder_id'] or 'none'}",
        "manifest": ", ".join([facts["manifest_hash"], *facts["added_manifests"]]),
        "images": f"{facts['images']}, and {facts['num_deleted']} removed",
        "index": f"{facts['factory']} of {facts['dim']} numbers, looks {looks}",
        "recall": f"{recalls} (target {facts['recall_target']:g} at 10)",
        "latency": f"{facts['latency_ms']:.3f} ms a query",
        "size": f"{show_bytes(facts['index_bytes'])}, {facts['bytes_per_vector']:g} bytes a vector",
        "built": f"{facts['created']} in {facts['build_s']:g} s, peak {show_bytes(facts['peak_memory_bytes'])}"
        + (f" of {show_bytes(facts['memory_cap_bytes'])}" if facts["memory_cap_bytes"] else ""),
        "domains": _most(facts["domains"]),
        "labels": _most(facts["labels"]),
    }
    return "\n".join(f"{name:9} {value}" for name, value in rows.items())


def scored(folder: Path, features: VectorSource) -> dict[str, Any]:
    """How the bundle answers at most 1000 new images: recall against exact search, median latency, and for labelled
    ones the share of the k nearest that bear their label, images of the same key or group left out.

    Raises:
        ArtifactMismatch: the features are of another encoder, part or length; names both.
    """
    bundle = IndexBundle.open(folder)
    check_lineage(bundle, features)
    queries = unit_rows(next(features.blocks(_MOST_QUERIES)), features.records.column("key").to_pylist())
    records, allowed = features.records.slice(0, len(queries)), bundle.allowed()
    vectors = bundle.exact()
    own = np.full(len(queries), -1)
    asked = ask_exactly(vectors, queries, own, alive=allowed, block_rows=4096)
    result: dict[str, Any] = {"bundle": bundle.info.id, "queries": len(queries)}
    result |= {f"recall_at_{k}": measured_recall(bundle.index, vectors, asked, k) for k in (1, 10, 100)}
    result["latency_ms"] = latency_ms(bundle.index, queries)
    labels = np.array(records.column("label").to_pylist(), dtype=object)
    labelled = np.flatnonzero(labels != None)  # noqa: E711  elementwise
    if labelled.size:
        guards = (
            bundle.by_key.rows(records.column("key").to_pylist()),
            bundle.by_group.rows(records.column("group").to_pylist()),
        )
        excluded = [np.union1d(guards[0][i], guards[1][i]) for i in labelled]
        hits = bundle.search(queries[labelled], max(_PRECISION_AT), excluded=excluded).rows
        shown = np.array([*bundle.column("label"), None], dtype=object)[hits]
        right = shown == labels[labelled][:, None]
        result |= {f"precision_at_{k}": float(right[:, :k].mean()) for k in _PRECISION_AT}
    return result


def _most(counts: dict[str, int], most: int = 8) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = f", and {len(ordered) - most} more" if len(ordered) > most else ""
    return f"{len(ordered)}: " + ", ".join(f"{name} {count}" for name, count in ordered[:most]) + more
