"""Stored images with their records and what encoders make of them: what an actor does, and a notebook in its place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from viewfold.pipeline.images import ImageBatch, read_images
from viewfold.pipeline.manifest import ShardManifest
from viewfold.retrieval.features import record_table
from viewfold.retrieval.hashing import image_hashes
from viewfold.ssl.encoder import Encoder


@dataclass(frozen=True)
class Embedded:
    """Images of one batch of samples: their records, and by the encoder's name the vectors in the same order."""

    records: pa.Table
    vectors: dict[str, NDArray[np.float32]]


def embed_rows(encoders: Mapping[str, Encoder], manifest: ShardManifest, rows: Sequence[int], part: str) -> Embedded:
    """Records and vectors of every stored image of the samples `rows`, read once for all encoders."""
    sizes = {encoder.config.preprocessing.image_size for encoder in encoders.values()}
    tables, vectors = [], {name: [] for name in encoders}  # type: ignore[var-annotated]
    for batch in read_images(manifest, rows, image_size=max(sizes), batch_size=len(rows)):
        tables.append(_records(manifest, batch))
        for name, encoder in encoders.items():
            vectors[name].append(getattr(encoder.encode(batch.images), part).numpy())
    return Embedded(pa.concat_tables(tables), {name: np.concatenate(parts) for name, parts in vectors.items()})


def _records(manifest: ShardManifest, batch: ImageBatch) -> pa.Table:
    hashes = [image_hashes(data) for data in batch.data]
    places = [manifest.place(row, member) for row, member in zip(batch.rows, batch.members, strict=True)]
    names = {"label": manifest.labels, "domain": manifest.domains, "group": manifest.groups}
    known = {
        name: [vocabulary[i] if i >= 0 else None for i in getattr(manifest, name)[batch.rows]]
        for name, vocabulary in names.items()
    }
    return record_table(
        {
            "key": batch.keys,
            **known,
            "sha256": [sha256 for sha256, _ in hashes],
            "phash": [phash for _, phash in hashes],
            "shard": [place.shard for place in places],
            "offset": [place.offset for place in places],
            "size": [place.size for place in places],
        }
    )
