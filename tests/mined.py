"""Folders of mined pairs, written by hand: what the tests of training on pairs share."""

import json
import random
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from viewfold.pipeline.manifest import ShardManifest

Node = tuple[int, int]
"""Row of the manifest, and which of the sample's images."""
Edge = tuple[Node, Node, str]


def write_pairs(
    folder: Path, manifest: ShardManifest, edges: Iterable[Edge], *, shuffle: int = 0, **about: Any
) -> Path:
    """The folder that mining would leave: every image is a node; that of number 0 or 1 has parent `row // 4`.

    `shuffle` other than 0 writes the edges in another order.
    """
    nodes = [(row, member) for row in range(len(manifest)) for member in range(manifest.num_images(row))]
    nodes.sort(key=lambda node: manifest.image_key(*node))
    number = {node: place for place, node in enumerate(nodes)}
    ends = [(*sorted((number[a], number[b])), kind) for a, b, kind in edges]
    if shuffle:
        random.Random(shuffle).shuffle(ends)
    folder.mkdir(parents=True, exist_ok=True)
    table: dict[str, Any] = {
        "row": pa.array([row for row, _ in nodes], pa.int64()),
        "member": pa.array([member for _, member in nodes], pa.int32()),
        "key": [manifest.image_key(*node) for node in nodes],
        "track": pa.array([row for row, _ in nodes], pa.int64()),
        "parent": pa.array([row // 4 if member < 2 else -1 for row, member in nodes], pa.int64()),
    }
    pq.write_table(pa.table(table), folder / "nodes.parquet")
    columns = {
        "a": pa.array([a for a, _, _ in ends], pa.int64()),
        "b": pa.array([b for _, b, _ in ends], pa.int64()),
        "kind": pa.array([kind for _, _, kind in ends], pa.string()).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), folder / "edges.parquet")
    written = {"format": 1, "manifest_hash": manifest.hash, "encoder_id": "none", "transitive_share": 7 / 9, **about}
    (folder / "mining.json").write_text(json.dumps(written))
    return folder


def tracks(rows: Iterable[int], *, members: int = 4) -> list[Edge]:
    """Every pair of images of each of these samples."""
    return [((row, a), (row, b), "intra") for row in rows for b in range(members) for a in range(b)]


def chain(rows: Iterable[int]) -> list[Edge]:
    """Image 0 of each sample with that of the next one, and image 0 of each with image 1 of the next."""
    return [edge for a, b in pairwise(rows) for edge in (((a, 0), (b, 0), "inter"), ((a, 0), (b, 1), "transitive"))]
