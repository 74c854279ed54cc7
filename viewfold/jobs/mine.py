"""Which images show the same kind of thing: pairs mined from features, without labels, for training with them.

The picture of the pairs is drawn in `mine_sheet.py`; `mine_facts.py` counts, and compares with labels afterwards.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from viewfold.config import Config, check_ranges, dump
from viewfold.errors import InvalidInput
from viewfold.jobs.mine_facts import chance, counted, purity
from viewfold.jobs.mine_graph import Edges, Intra, close, compact, inter_edges, intra_edges, parents, supported
from viewfold.jobs.mine_nodes import Nodes, Part, embed_nodes
from viewfold.jobs.mine_sheet import draw_pairs
from viewfold.pipeline.executor import map_ray
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.partners import FORMAT, KINDS
from viewfold.pipeline.progress import progress
from viewfold.pipeline.stage import write_whole
from viewfold.ssl.encoder import load_encoder

FACTS_NAME, NODES_NAME, EDGES_NAME, PICTURE_NAME = "mining.json", "nodes.parquet", "edges.parquet", "pairs.png"
_PER_PARENT = 500


@dataclass(frozen=True, kw_only=True)
class MineConfig(Config):
    """How pairs are mined (arXiv:1708.02901, whose own numbers were those for millions of patches of videos)."""

    RUNNING: ClassVar[tuple[str, ...]] = ("actors",)

    part: Part = "invariant"
    """Which of the encoder's features are compared; the same as `all` where the encoder has no equivariant ones."""
    pca_dim: int = 256
    """Principal components that features are reduced to; 0, or no fewer than the features have: none."""
    num_parents: int = 0
    """k-means clusters inside of which pairs are looked for, and between which negatives are drawn; paper: 5000. 0: one
    for every 500 images, and 2 at least, for a single one leaves no negatives."""
    min_parent: int = 20
    """Images of the smallest parent that is kept. Those of a smaller one have no parent and intra edges alone. Paper:
    100, of parents of some thousands."""
    neighbours: int = 10
    """Nearest images of other tracks that an image lists."""
    clique: int = 4
    """Images that must all list one another to be taken for the same kind of thing. Larger: fewer edges, and purer."""
    support: int = 1
    """Inter edges that two tracks must share for these to count. Paper: 1, for its tracks are two images. Tracks of
    many images are joined by stray edges as well, each of which is closed over all their images."""
    intra: Intra = "all"
    """Which pairs of a track are edges: `all`, or its `ends`, the first and the last image, for long tracks."""
    transitive_share: float = 7 / 9
    """Share of the training pairs that are inter or transitive edges; the others are intra edges."""
    max_transitive: int = 4_000_000
    """Transitive edges that are kept, about 60 bytes of memory each; of more, a uniform sample."""
    seed: int = 0
    """Of k-means, the sample of transitive edges, the intervals and the pairs in the picture."""
    actors: int = 2
    """Ray actors that encode the images, each with its own copy of the encoder; with a GPU each takes one."""
    batch_size: int = 128
    """Samples that one actor is sent at a time."""

    def __post_init__(self) -> None:
        check_ranges(
            self,
            pca_dim=(0, 65536),
            num_parents=(0, 1e9),
            min_parent=(1, 1e9),
            neighbours=(1, 1000),
            clique=(2, self.neighbours + 1),
            support=(1, 1e9),
            transitive_share=(0, 1),
            max_transitive=(1, 1e9),
            actors=(1, 1e6),
            batch_size=(1, 1e6),
        )


@dataclass(frozen=True, eq=False)
class Mined:
    """A graph over nodes."""

    parent: NDArray[np.int64]
    """`[node]`: number of its cluster, -1 for none."""
    parents_deleted: int
    edges: dict[str, Edges]
    """By kind, in the order of `KINDS`."""
    transitive_found: int
    """All transitive edges there are, where the ones kept are a sample."""


def mine(encoder: Path, manifest: ShardManifest, config: MineConfig, out: Path) -> dict[str, Any]:
    """Mine the images of `manifest`; nodes, edges, facts and a picture go into the folder `out`.

    What comes out does not depend on which shard holds what, nor on labels, which are only counted afterwards. Memory:
    all features twice, the intra edges, and `max_transitive`. Use inside of `ray_session()`.

    Raises:
        InvalidInput: nothing to mine, or no inter edge found: says which setting to change.
    """
    seconds: dict[str, float] = {}
    with _timed(seconds, "encode"):
        nodes = embed_nodes(encoder, manifest, part=config.part, actors=config.actors, block=config.batch_size)
    mined = mine_vectors(nodes.vectors, nodes.track, config, over=_over_ray, seconds=seconds)
    label = manifest.label[nodes.row]
    with _timed(seconds, "compare with labels"):
        facts = {
            "format": FORMAT,
            "manifest_hash": manifest.hash,
            "encoder_id": str(load_encoder(encoder, verify=False).id),
            "transitive_share": config.transitive_share,
            **counted(mined.parent, nodes.track, mined.edges),
            "parents_deleted": mined.parents_deleted,
            "transitive_found": mined.transitive_found,
            "purity": purity(mined.edges, label, _independent(manifest, nodes), seed=config.seed),
            "chance": chance(label, nodes.track),
            "settings": dump(config),
        }
    with _timed(seconds, "write"):
        _write_tables(nodes, mined, out)
        draw_pairs(manifest, nodes, mined.edges, facts, out / PICTURE_NAME, seed=config.seed)
    facts["seconds"] = {name: round(spent, 3) for name, spent in seconds.items()}
    text = json.dumps(facts, indent=2) + "\n"
    write_whole(out / FACTS_NAME, lambda file: file.write(text.encode()))
    return facts


def mine_vectors(
    vectors: NDArray[np.float32],
    track: NDArray[np.int64],
    config: MineConfig,
    *,
    over: Callable[..., Iterable[Any]] = map,
    seconds: dict[str, float] | None = None,
) -> Mined:
    """The graph over `[node, dim]` unit rows and their tracks; `over` maps over the parents.

    Raises:
        InvalidInput: no inter edge found: says which setting to change.
    """
    spent = {} if seconds is None else seconds
    wanted = min(config.num_parents or max(2, round(len(vectors) / _PER_PARENT)), len(vectors))
    with _timed(spent, "reduce"):
        vectors = compact(vectors, config.pca_dim, seed=config.seed)
    with _timed(spent, "parents"):
        parent = parents(vectors, wanted, least=config.min_parent, seed=config.seed)
    kept = int(parent.max()) + 1
    if kept == 0:
        raise InvalidInput(
            f"all {wanted} parents of {len(vectors)} images have fewer than {config.min_parent} images; lower "
            "min_parent, or num_parents"
        )
    with _timed(spent, "inter"):
        search = partial(inter_edges, neighbours=config.neighbours, clique=config.clique, over=over)
        inter = supported(search(vectors, parent, track), track, config.support)
    if not len(inter):
        raise InvalidInput(
            f"no inter edge among {len(vectors)} images of {len(np.unique(track))} tracks in {kept} parents: lower "
            f"clique ({config.clique}) or support ({config.support}), or raise neighbours ({config.neighbours})"
        )
    with _timed(spent, "closure"):
        intra = intra_edges(track, config.intra)
        transitive = close(inter, intra, track, most=config.max_transitive, seed=config.seed)
    edges = dict(zip(KINDS, (inter, intra, transitive.edges), strict=True))
    return Mined(parent, wanted - kept, edges, transitive.found)


def _over_ray(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    with progress("mine parents", total=None) as bar:
        for answer in map_ray(function, items):
            bar.advance()
            yield answer


def _independent(manifest: ShardManifest, nodes: Nodes) -> NDArray[np.int64]:
    """`[node]`: its sample's group, or a number for its track: what is resampled for an interval."""
    group = manifest.group[nodes.row]
    return np.where(group >= 0, group, len(manifest.groups) + nodes.track)


def _write_tables(nodes: Nodes, mined: Mined, out: Path) -> None:
    described = pa.table(
        {"row": nodes.row, "member": nodes.member, "key": nodes.key, "track": nodes.track, "parent": mined.parent}
    )
    write_whole(out / NODES_NAME, lambda file: pq.write_table(described, file))
    parts = [
        pa.table({"a": edges[:, 0], "b": edges[:, 1], "kind": pa.repeat(kind, len(edges))})
        for kind, edges in mined.edges.items()
    ]
    write_whole(out / EDGES_NAME, lambda file: pq.write_table(pa.concat_tables(parts), file))


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - began
