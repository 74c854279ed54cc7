"""The nodes of mining: every stored image of a manifest as an encoder sees it, and the track that it belongs to."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from viewfold.errors import InvalidInput
from viewfold.pipeline.executor import has_gpus, map_actors
from viewfold.pipeline.images import ImageBatch, read_images
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.progress import progress
from viewfold.pipeline.reader import ShardReader
from viewfold.ssl.encoder import load_encoder

Part = Literal["invariant", "all"]
_BATCH = 256


@dataclass(frozen=True, eq=False)
class Nodes:
    """Stored images, sorted by key within their shards, number of the image, and shard: no shard has a say in it."""

    row: NDArray[np.int64]
    """`[node]`: its sample in the manifest."""
    member: NDArray[np.int64]
    """`[node]`: which stored image of its sample it is."""
    key: list[str]
    """Its identity."""
    track: NDArray[np.int64]
    """`[node]`: number of the track, counted in the order of their first nodes."""
    vectors: NDArray[np.float32]
    """`[node, dim]`: its features, of length 1 (or 0, where the encoder gives zeros)."""


class Encoded(NamedTuple):
    """One batch of images."""

    rows: list[int]
    members: list[int]
    keys: list[str]
    vectors: NDArray[np.float32]


class EncodedBlock(NamedTuple):
    """What an actor answers for some samples."""

    encoded: list[Encoded]
    recorded: dict[int, str]
    """Track that a sample's JSON names, by row; of samples with one image alone."""


class TrackEncoder:
    """An actor's state: the encoder, opened once."""

    def __init__(self, encoder: Path, manifest: ShardManifest, part: Part) -> None:
        """`encoder` is a folder."""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder = load_encoder(encoder).to(self.device)
        self.manifest, self.part = manifest, part

    def __call__(self, rows: Sequence[int]) -> EncodedBlock:
        """Unit features of every stored image of the samples `rows`, and the tracks that their JSON names.

        Raises:
            InvalidInput: features that are not finite: names the image.
        """
        size = self.encoder.config.preprocessing.image_size
        batches = read_images(self.manifest, rows, image_size=size, batch_size=_BATCH)
        encoded = [Encoded(batch.rows, batch.members, batch.keys, self._unit(batch)) for batch in batches]
        with self.manifest.reader() as reader:
            named = {row: _recorded_track(self.manifest, reader, row) for row in rows}
        return EncodedBlock(encoded, {row: name for row, name in named.items() if name is not None})

    def _unit(self, batch: ImageBatch) -> NDArray[np.float32]:
        vectors: torch.Tensor = getattr(self.encoder.encode(batch.images), self.part)
        finite = vectors.isfinite().all(dim=1)
        if not finite.all():
            key = batch.keys[int(finite.int().argmin())]
            raise InvalidInput(f"{key}: the encoder's features are not finite; check the encoder before mining with it")
        return F.normalize(vectors, dim=1).numpy()


def embed_nodes(encoder: Path, manifest: ShardManifest, *, part: Part, actors: int, block: int) -> Nodes:
    """Encode all images by `actors` Ray actors, `block` samples at a time. Use inside of `ray_session()`.

    A sample of several images is a track; one image is of the track that its JSON names (`track`), or stands alone.
    Images are encoded in the order of the nodes, so the same ones share a batch wherever they lie.

    Raises:
        InvalidInput: no samples, features without numbers or that are not finite; what a reader of images raises.
    """
    rows = _sorted_rows(manifest)
    if not rows:
        raise InvalidInput("no samples to mine; check the shards and filters of `data`")
    blocks = [rows[start : start + block] for start in range(0, len(rows), block)]
    found: list[Encoded] = []
    recorded: dict[int, str] = {}
    with progress("encode samples to mine", total=len(rows)) as bar:
        answers = map_actors(
            TrackEncoder,
            (encoder.resolve(), manifest, part),
            blocks,
            num_actors=min(actors, len(blocks)),
            num_gpus=1 if has_gpus() else 0,
        )
        for samples, answer in zip(blocks, answers, strict=True):
            found += answer.encoded
            recorded |= answer.recorded
            bar.advance(len(samples))
    row = np.concatenate([np.asarray(part.rows, dtype=np.int64) for part in found])
    return Nodes(
        row=row,
        member=np.concatenate([np.asarray(part.members, dtype=np.int64) for part in found]),
        key=[key for part in found for key in part.keys],
        track=_tracks(row.tolist(), recorded),
        vectors=np.concatenate([part.vectors for part in found]),
    )


def _sorted_rows(manifest: ShardManifest) -> list[int]:
    """Rows by the key within the shard; the same key in two shards, by their names."""
    shards = manifest.samples.shard(np.arange(len(manifest))).tolist()
    names = [(manifest.samples.key(row), manifest.shards[shard].name) for row, shard in enumerate(shards)]
    return sorted(range(len(manifest)), key=names.__getitem__)


def _recorded_track(manifest: ShardManifest, reader: ShardReader, row: int) -> str | None:
    """The `track` of the JSON of a sample with one image; the manifest's table does not keep it."""
    entry = manifest.samples.entry(row)
    if entry.about is None or len(entry.images) > 1:
        return None
    track = json.loads(reader.read(entry.shard, entry.about)).get("track")
    return None if track is None else str(track)


def _tracks(rows: Sequence[int], recorded: dict[int, str]) -> NDArray[np.int64]:
    numbers: dict[int | str, int] = {}
    return np.array([numbers.setdefault(recorded.get(row, row), len(numbers)) for row in rows], dtype=np.int64)
