"""Embed every image of a manifest by Ray actors, with several encoders in one pass over the images."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from viewfold.config import Config
from viewfold.pipeline.executor import map_actors
from viewfold.pipeline.images import read_images
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.progress import progress
from viewfold.retrieval.features import FeatureWriter, record_table
from viewfold.retrieval.hashing import image_hashes
from viewfold.ssl.encoder import load_encoder


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(Config):
    """How images become vectors."""

    part: Literal["invariant", "equivariant", "all"] = "invariant"
    """Which of the encoder's features are kept."""
    actors: int = 2
    """Ray actors, each with its own copy of the encoders; with a GPU each takes one."""
    batch_size: int = 128
    """Samples that one actor is sent at a time."""

    def __post_init__(self) -> None:
        if min(self.actors, self.batch_size) < 1:
            raise ValueError(f"actors and batch_size must be at least 1, got {self.actors} and {self.batch_size}")


@dataclass(frozen=True)
class Embedded:
    """What an actor answers for one batch of samples."""

    records: pa.Table
    vectors: dict[str, NDArray[np.float32]]


class Embedder:
    """An actor's state: the manifest and the encoders, opened once."""

    def __init__(self, encoders: Mapping[str, Path], manifest: Path, part: str) -> None:
        """`encoders` are folders by the name that their features are filed under."""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoders = {name: load_encoder(folder).to(self.device) for name, folder in encoders.items()}
        self.manifest = ShardManifest.load(manifest)
        self.part = part

    def __call__(self, rows: Sequence[int]) -> Embedded:
        """Records and vectors of every stored image of the samples `rows`."""
        sizes = {encoder.config.preprocessing.image_size for encoder in self.encoders.values()}
        tables, vectors = [], {name: [] for name in self.encoders}  # type: ignore[var-annotated]
        for batch in read_images(self.manifest, rows, image_size=max(sizes), batch_size=len(rows)):
            tables.append(record_table(self._records(batch)))
            for name, encoder in self.encoders.items():
                vectors[name].append(getattr(encoder.encode(batch.images), self.part).numpy())
        return Embedded(pa.concat_tables(tables), {name: np.concatenate(parts) for name, parts in vectors.items()})

    def _records(self, batch: Any) -> dict[str, list[Any]]:
        manifest = self.manifest
        hashes = [image_hashes(data) for data in batch.data]
        places = [manifest.place(row, member) for row, member in zip(batch.rows, batch.members, strict=True)]
        names = {"label": manifest.labels, "domain": manifest.domains, "group": manifest.groups}
        known = {
            name: [vocabulary[i] if i >= 0 else None for i in getattr(manifest, name)[batch.rows]]
            for name, vocabulary in names.items()
        }
        return {
            "key": batch.keys,
            **known,
            "sha256": [sha256 for sha256, _ in hashes],
            "phash": [phash for _, phash in hashes],
            "shard": [place.shard for place in places],
            "offset": [place.offset for place in places],
            "size": [place.size for place in places],
        }


def embed(encoders: Mapping[str, Path], manifest: Path, config: EmbedConfig, out: Path) -> dict[str, Any]:
    """One feature set for each encoder, `out/NAME`, of all images of `manifest`, in the manifest's order.

    Use inside of `ray_session()`.
    """
    loaded = ShardManifest.load(manifest)
    blocks = [range(i, min(i + config.batch_size, len(loaded))) for i in range(0, len(loaded), config.batch_size)]
    folders = {name: folder.resolve() for name, folder in encoders.items()}
    ids = {name: load_encoder(folder, verify=False).id for name, folder in folders.items()}
    images = 0
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(
                FeatureWriter(out / name, encoder_id=str(ids[name]), manifest_hash=loaded.hash, part=config.part)
            )
            for name in encoders
        }
        bar = stack.enter_context(progress("embed", total=len(loaded)))
        num_gpus = 1 if torch.cuda.is_available() else 0
        answers = map_actors(
            Embedder,
            (folders, manifest, config.part),
            blocks,
            num_actors=min(config.actors, len(blocks)),
            num_gpus=num_gpus,
        )
        for block, answer in zip(blocks, answers, strict=True):
            for name, writer in writers.items():
                writer.add(answer.records, answer.vectors[name])
            images += answer.records.num_rows
            bar.advance(len(block))
    return {"images": images, "part": config.part, "encoders": ids}
