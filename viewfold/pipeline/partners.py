"""Mined pairs to train on: for each sample that has any, which stored image is shown beside which of its own."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from viewfold.errors import ArtifactMismatch, InvalidInput
from viewfold.keyed import key64, uniforms
from viewfold.pipeline.manifest import ShardManifest

FORMAT = 1
KINDS = ("inter", "intra", "transitive")
"""Of edges: between instances, within one (a track), and from one instance across such an edge into another's track."""

Numbers = NDArray[np.int64]


class Drawn(NamedTuple):
    """What one sample shows in one epoch."""

    member: int
    """Which of its stored images."""
    partner_row: int
    """The sample of the partner: itself, for another image of its own."""
    partner_member: int
    parents: tuple[int, int]
    """Parent cluster of the sample's image and of the partner's; -1 for one that has none."""


@dataclass(frozen=True, eq=False)
class Partners:
    """The edges between stored images (nodes), by node: 8 bytes for each edge, 36 for each node."""

    hash: str
    """64 hex digits: the same for the same pairs, whatever the order of edges in the file."""
    anchors: Numbers
    """int64 `[anchor]`: rows of the manifest that have an edge, ascending."""
    transitive_share: float
    """Probability of an edge that leaves the instance, inter or transitive, where an image has edges of both kinds."""
    row: Numbers
    """`[node]`: its sample."""
    member: NDArray[np.int32]
    """`[node]`: which stored image of its sample it is."""
    parent: NDArray[np.int32]
    """`[node]`: its parent cluster, -1 for none."""
    anchor_start: Numbers
    """`[anchor + 1]`: where the nodes of each anchor begin in `anchor_nodes`."""
    anchor_nodes: NDArray[np.int32]
    """Nodes that have an edge, by their samples."""
    edge_start: Numbers
    """`[2 * node + 1]`: where the neighbours of each node begin, those across instances, then those within."""
    neighbours: NDArray[np.int32]
    """Both ends of every edge are in it, each once as the other's neighbour."""

    @staticmethod
    def load(folder: Path, manifest: ShardManifest) -> "Partners":
        """Read the folder that mining wrote: seconds for millions of edges.

        Raises:
            ArtifactMismatch: the pairs were mined on other data.
            InvalidInput: not there, of another format, damaged, or without a pair.
        """
        about = _about(folder)
        if about["manifest_hash"] != manifest.hash:
            raise ArtifactMismatch(
                f"{folder}: its pairs were mined on data {about['manifest_hash']}, the manifest is {manifest.hash}; "
                "mine this data, or train on that"
            )
        try:
            nodes = pq.read_table(folder / "nodes.parquet", columns=["row", "member", "parent"])
            edges = pq.read_table(folder / "edges.parquet", columns=["a", "b", "kind"])
            row, member, parent = (_numbers(nodes[name]) for name in ("row", "member", "parent"))
            a, b = _numbers(edges["a"]), _numbers(edges["b"])
            kind = edges["kind"].cast(pa.string())
            unknown = set(pc.unique(kind).to_pylist()) - set(KINDS)
            within = _numbers(pc.equal(kind, "intra"))
        except (OSError, ValueError, KeyError) as error:
            raise InvalidInput(f"{folder}: not whole ({error}); mine again") from None
        if unknown or not _in_range(a, b, len(row)) or not _in_range(row, row + 1, len(manifest) + 1):
            raise InvalidInput(f"{folder}: edges of another set of nodes, or of unknown kinds {unknown}; mine again")
        if not len(a):
            raise InvalidInput(f"{folder}: holds no pair; mine with more neighbours, or with smaller groups")
        return _by_node(row, member, parent, np.stack([a, b]), within, about["transitive_share"])

    def draw(self, row: int, epoch: int, identity: str, seed: int) -> Drawn:
        """The pair that a sample shows in an epoch, a function of (seed, epoch, `identity`, its edges) alone.

        One of its images that have edges; of that image an edge across instances with probability `transitive_share`,
        else one within, or whichever kind it has; of that kind any edge. All uniformly.

        Raises:
            InvalidInput: the sample has no edge.
        """
        anchor = int(np.searchsorted(self.anchors, row))
        if anchor == len(self.anchors) or self.anchors[anchor] != row:
            raise InvalidInput(f"{identity}: no pair was mined of it, so it is not trained on; choose another sample")
        image, across, edge = uniforms([key64("partner", seed, epoch, identity)], 3)[0].tolist()
        first, last = self.anchor_start[anchor : anchor + 2].tolist()
        node = int(self.anchor_nodes[first + int(image * (last - first))])
        first, middle, last = self.edge_start[2 * node : 2 * node + 3].tolist()
        if middle > first and (middle == last or across < self.transitive_share):
            last = middle
        else:
            first = middle
        partner = int(self.neighbours[first + int(edge * (last - first))])
        return Drawn(
            member=int(self.member[node]),
            partner_row=int(self.row[partner]),
            partner_member=int(self.member[partner]),
            parents=(int(self.parent[node]), int(self.parent[partner])),
        )


def _about(folder: Path) -> dict[str, Any]:
    path = folder / "mining.json"
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        whole = about["format"] == FORMAT and 0 <= about["transitive_share"] <= 1 and "manifest_hash" in about
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidInput(f"{folder}: no mining.json, so no mined pairs; make them with `viewfold mine`") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path}: cannot be read ({error}); mine again") from None
    if not whole:
        raise InvalidInput(f"{path}: not of format {FORMAT}; mine again with `viewfold mine`")
    return about


def _by_node(
    row: Numbers, member: Numbers, parent: Numbers, edges: Numbers, within: Numbers, transitive_share: float
) -> Partners:
    """`edges` is `[2, edge]`; `within` is 1 where an edge lies within an instance."""
    num_nodes = len(row)
    # One sort of one number for node, kind and neighbour: the order of the edges in the file has no say.
    places = np.concatenate([edges[0], edges[1]]) * 2
    places += np.tile(within, 2)
    places *= num_nodes
    places += np.concatenate([edges[1], edges[0]])
    places.sort()
    edge_start = np.searchsorted(places, np.arange(2 * num_nodes + 1) * num_nodes)
    places %= num_nodes
    found = np.flatnonzero(np.diff(edge_start[::2]))
    found = found[np.argsort(row[found], kind="stable")]
    anchors, anchor_start = np.unique(row[found], return_index=True)
    arrays: dict[str, NDArray[Any]] = {
        "anchors": anchors,
        "row": row,
        "member": member.astype(np.int32),
        "parent": parent.astype(np.int32),
        "anchor_start": np.append(anchor_start, len(found)),
        "anchor_nodes": found.astype(np.int32),
        "edge_start": edge_start,
        "neighbours": places.astype(np.int32),
    }
    digest = hashlib.sha256(repr(float(transitive_share)).encode())
    for array in arrays.values():
        digest.update(array.tobytes())
    return Partners(hash=digest.hexdigest(), transitive_share=transitive_share, **arrays)


def _in_range(low: Numbers, high: Numbers, end: int) -> bool:
    """Whether 0 <= low < high < end everywhere."""
    return not len(low) or bool(low.min() >= 0 and (low < high).all() and high.max() < end)


def _numbers(column: pa.ChunkedArray) -> Numbers:
    """A column without nulls as int64."""
    numbers: Numbers = np.from_dlpack(column.cast(pa.int64()).combine_chunks()).astype(np.int64)  # a copy: not Arrow's
    return numbers
