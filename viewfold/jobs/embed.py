"""Embed every image of a manifest by Ray actors, with several encoders in one pass over the images."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from viewfold.config import Config
from viewfold.jobs.embed_records import Embedded, embed_rows
from viewfold.pipeline.executor import has_gpus, map_actors
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.progress import progress
from viewfold.retrieval.features import FeatureWriter
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
        return embed_rows(self.encoders, self.manifest, rows, self.part)


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
        answers = map_actors(
            Embedder,
            (folders, manifest, config.part),
            blocks,
            num_actors=min(config.actors, len(blocks)),
            num_gpus=1 if has_gpus() else 0,
        )
        for block, answer in zip(blocks, answers, strict=True):
            for name, writer in writers.items():
                writer.add(answer.records, answer.vectors[name])
            images += answer.records.num_rows
            bar.advance(len(block))
    return {"images": images, "part": config.part, "encoders": ids}
