"""A run folder with data, an encoder of random weights and an index, made without Ray: what can be asked."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from tiny import encode

from viewfold.jobs.embed import Embedder
from viewfold.pipeline.decode import decode_image
from viewfold.pipeline.indexer import index_shards
from viewfold.retrieval import FeatureSet, build_bundle
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing, save_encoder

THUMBNAIL_PX = 16


def write_run(run: Path, shards: Sequence[str | Path], *, every: int = 1) -> Path:
    """Index every `every`-th sample of the shards in `run`, embedded by a small network as it was drawn."""
    manifest = index_shards(shards, run / "data")
    encoder = run / "pretrain" / "encoder"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = Encoder(EncoderConfig(backbone="resnet-small", preprocessing=Preprocessing(image_size=16)))
    identity = save_encoder(drawn.eval(), encoder, lineage={})
    embedder = Embedder({"pretrained": encoder}, run / "data", "invariant")
    embedded = embedder(range(0, len(manifest), every))
    vectors = embedded.vectors["pretrained"]
    features = FeatureSet(identity, manifest.hash, "invariant", embedded.records, vectors)
    thumbnails = [(record["key"], _thumbnail(shards, record)) for record in embedded.records.to_pylist()]
    build_bundle(features, run / "index" / "bundle", thumbnails=thumbnails)
    return run


def stored(shards: Sequence[str | Path], record: dict[str, object]) -> bytes:
    """The file of an image at the place that its record names."""
    shard = next(Path(path) for path in shards if Path(path).stem == record["shard"])
    start, size = record["offset"], record["size"]
    assert isinstance(start, int)
    assert isinstance(size, int)
    return shard.read_bytes()[start : start + size]


def _thumbnail(shards: Sequence[str | Path], record: dict[str, object]) -> bytes:
    pixels = decode_image(stored(shards, record), THUMBNAIL_PX).transpose(1, 2, 0)
    return encode(Image.fromarray(pixels), "JPEG")
