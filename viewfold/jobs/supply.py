"""What a worker's training takes its steps from: images that are read and drawn anew, or features kept in memory."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from viewfold.jobs.frozen import FrozenStream, base_features, feature_views
from viewfold.jobs.step_selection import Embed, embed_features, embed_images
from viewfold.pipeline.executor import Worker
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.partners import Partners
from viewfold.pipeline.stream import Stream, stream_batches
from viewfold.pipeline.stream_config import StreamConfig
from viewfold.ssl.encoder import Encoder
from viewfold.values import Batch, Views


@dataclass(frozen=True)
class Supply:
    """Batches, the views made of them, and, where a step is chosen by a domain, what is looked at for it."""

    batches: Callable[[range], Stream | FrozenStream]
    """This rank's batches of these steps."""
    views: Callable[[Batch], Views]
    embed: Embed | None


@dataclass(frozen=True)
class Samples:
    """What is learned from, and the images of the domain by which a step is chosen."""

    learned: ShardManifest
    queries: ShardManifest | None
    stream: StreamConfig


def images_supply(
    samples: Samples, worker: Worker, views: Callable[[Batch], Views], *, partners: Partners | None, quarantine: Path
) -> Supply:
    """Every step reads its images; `views` draws what is made of them."""

    def batches(steps: range) -> Stream:
        return stream_batches(
            samples.learned,
            samples.stream,
            rank=worker.rank,
            world_size=worker.world_size,
            start_step=steps.start,
            num_steps=len(steps),
            quarantine=quarantine,
            partners=partners,
        )

    embed = None
    if samples.queries is not None:
        embed = embed_images(
            samples.learned, samples.queries, image_size=samples.stream.image_size, device=worker.device
        )
    return Supply(batches, views, embed)


def features_supply(samples: Samples, worker: Worker, encoder: Encoder, *, kept: Path | None) -> Supply:
    """Every image passes the backbone of `encoder` now, and never again. A call of all ranks."""
    features_of = partial(base_features, encoder.to(worker.device), image_size=samples.stream.image_size, kept=kept)
    features = features_of(samples.learned)
    embed = None
    if samples.queries is not None:
        embed = embed_features((samples.learned, features), (samples.queries, features_of(samples.queries)))

    def batches(steps: range) -> FrozenStream:
        ranks = {"rank": worker.rank, "world_size": worker.world_size}
        return FrozenStream(samples.learned, samples.stream, features, steps=steps, **ranks)

    return Supply(batches, partial(feature_views, device=worker.device), embed)
