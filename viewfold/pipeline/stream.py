"""Batches for training from plain shards: every step's batch is a function of (manifest, configuration, rank, step).

Nothing is carried from one step to the next, so loader processes, a restart inside an epoch and another number of ranks
change nothing in what is seen. `plain_stream` is for shards without a manifest and promises none of this.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from viewfold.config import Config
from viewfold.errors import InvalidInput, MissingDependency, ShardError
from viewfold.pipeline.decode import decode_image
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.plan import Plan
from viewfold.pipeline.quarantine import BadSample, Quarantine
from viewfold.pipeline.shards import ShardReader, is_image
from viewfold.pipeline.steps import Drawing, Made, StepBatches, read_latents
from viewfold.values import Batch


@dataclass(frozen=True, kw_only=True)
class StreamConfig(Config):
    """What a training run draws from a manifest."""

    batch_size: int = 64
    """Samples in one global batch, over all ranks."""
    image_size: int = 64
    """Height and width in pixels that images are scaled and cropped to."""
    seed: int = 0
    pair: bool = False
    """Two distinct stored images of each sample (an object seen twice); otherwise one, drawn if it has several."""
    block: int = 256
    """Neighbouring samples that stay near each other in the order: larger reads faster, smaller mixes better."""
    tail: Literal["carry", "drop"] = "carry"
    """What becomes of an epoch's last samples: they open the next epoch's first batch, or are left out."""
    loader_workers: int = 0
    """Processes that read and decode for each rank; 0 does it in the training process."""
    max_bad_share: float = 0.0
    """Share of unreadable samples to go on with, in 0..1; at 0 the first one ends the run."""

    def __post_init__(self) -> None:
        for name, least in {"batch_size": 1, "image_size": 8, "block": 1, "loader_workers": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 <= self.max_bad_share < 1:
            raise ValueError(f"max_bad_share must lie in 0..1 and below 1, got {self.max_bad_share}")


def stream_batches(
    manifest: ShardManifest,
    config: StreamConfig,
    *,
    rank: int = 0,
    world_size: int = 1,
    start_step: int = 0,
    num_steps: int,
    quarantine: Path | None = None,
) -> Iterator[Batch]:
    """This rank's rows of the global batches `start_step` to `start_step + num_steps`.

    A sample that cannot be read is replaced by the next good one of this rank's rows of the same batch (cyclically), so
    batches stay equal in size; each is written to `quarantine` once.

    Raises:
        InvalidInput: the batch does not divide over the ranks, there are fewer samples than one batch, or a sample of
            one image where pairs are asked for. Raised by the call, before the first batch.
        ShardError: a sample that cannot be read where none is allowed, or a shard that is gone or changed.
        TrainingStopped: the share of bad samples is exceeded.
    """
    check_stream(manifest, config, world_size=world_size)
    steps = _step_batches(manifest, config, rank=rank, world_size=world_size)
    budget = Quarantine(quarantine, max_bad_share=config.max_bad_share, least_slots=len(manifest) / world_size)
    loader = DataLoader(
        steps,
        batch_size=None,
        sampler=range(start_step, start_step + num_steps),
        num_workers=config.loader_workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # otherwise a draw is taken from the global one
    )
    return _admitted(loader, steps, budget, start_step)


def sample_batch(manifest: ShardManifest, config: StreamConfig, row: int, epoch: int, *, size: int = 1) -> Batch:
    """`size` times one sample: row `row` of the manifest with the stored images that `epoch` shows of it.

    The same bits as in any batch of `stream_batches` that holds the sample in that epoch.

    Raises:
        ShardError: the sample cannot be read, or its shard is gone or changed.
    """
    steps = _step_batches(manifest, config, rank=0, world_size=1)
    try:
        made = steps.made([row] * size, [epoch] * size)
    finally:
        steps.close()
    if made.fatal is not None:
        raise made.fatal
    if made.batch is None:
        raise made.bad_samples[0].error()
    return made.batch


def position_of(manifest: ShardManifest, config: StreamConfig, row: int, epoch: int) -> tuple[int, int] | None:
    """The step whose global batch holds the sample in that epoch, and its place there; None where `tail` drops it."""
    size, place = config.batch_size, int(np.flatnonzero(_plan(manifest, config).order(epoch) == row)[0])
    if config.tail == "carry":
        return divmod(epoch * len(manifest) + place, size)
    steps = len(manifest) // size
    return (epoch * steps + place // size, place % size) if place < steps * size else None


def _plan(manifest: ShardManifest, config: StreamConfig) -> Plan:
    return Plan(manifest.hash, len(manifest), config.seed, config.block, config.tail)


def _step_batches(manifest: ShardManifest, config: StreamConfig, *, rank: int, world_size: int) -> StepBatches:
    local = config.batch_size // world_size
    drawing = Drawing(config.batch_size, rank * local, (rank + 1) * local, config.image_size, config.seed, config.pair)
    return StepBatches(manifest, _plan(manifest, config), drawing)


def _admitted(loader: "DataLoader[Made]", steps: StepBatches, budget: Quarantine, first_step: int) -> Iterator[Batch]:
    try:
        for step, made in enumerate(loader, first_step):
            if made.fatal is not None:
                raise made.fatal
            budget.admit(made.bad_samples, num_slots=made.num_slots, step=step)
            if made.batch is None:
                raise made.bad_samples[0].error()
            yield made.batch
    finally:
        steps.close()


def _as_it_is(made: Any) -> Any:
    return made


def check_stream(manifest: ShardManifest, config: StreamConfig, *, world_size: int) -> None:
    """Whether `stream_batches` can serve this, without reading a sample.

    Raises:
        InvalidInput: the batch does not divide over the ranks, there are fewer samples than one batch, or a sample of
            one image where pairs are asked for.
    """
    size = config.batch_size
    if size % world_size:
        ranks = [n for n in range(1, 2 * world_size) if size % n == 0]
        sizes = [n for n in (size // world_size * world_size, (size // world_size + 1) * world_size) if n]
        raise InvalidInput(
            f"batch_size={size} does not divide over {world_size} ranks;"
            f" use {_either(sizes)}, or {_either(ranks)} ranks"
        )
    if len(manifest) < size:
        raise InvalidInput(f"batch_size={size} is more than the {len(manifest)} samples there are; use at most that")
    if config.pair:
        single = np.flatnonzero(manifest.samples.image_counts() < 2)
        if len(single):
            raise InvalidInput(
                f"pair=true needs two stored images of each sample, {manifest.key(int(single[0]))} has one"
                f" ({len(single)} such samples); set pair=false"
            )


def _either(numbers: Sequence[int]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} or {last}" if first else last


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """Stored images in the order of the manifest, for evaluation and embedding."""

    images: Tensor
    """uint8 `[image, 3, height, width]`."""
    keys: list[str]
    """Identity of each stored image."""
    rows: list[int]
    """Row of each image's sample in the manifest."""
    members: list[int]
    """Which stored image of its sample each one is."""
    latents: Tensor | None
    """float32 `[image, latent]`, where every sample has latents."""
    data: list[bytes]
    """The stored file of each image."""


def read_images(
    manifest: ShardManifest, rows: Iterable[int], *, image_size: int, batch_size: int
) -> Iterator[ImageBatch]:
    """Every stored image of the samples `rows`, in order, `batch_size` images at a time; the last batch may have less.

    Raises:
        ShardError: an image that cannot be read, by shard and key, or a shard that is gone or changed.
    """
    with manifest.reader() as reader:
        stored = _stored_images(manifest, reader, rows, image_size)
        while chunk := list(islice(stored, batch_size)):
            latents = [image.latents for image in chunk if image.latents is not None]
            yield ImageBatch(
                images=torch.from_numpy(np.stack([image.pixels for image in chunk])),
                keys=[manifest.image_key(image.row, image.member) for image in chunk],
                rows=[image.row for image in chunk],
                members=[image.member for image in chunk],
                latents=torch.from_numpy(np.stack(latents)) if latents else None,
                data=[image.data for image in chunk],
            )


class _StoredImage(NamedTuple):
    row: int
    member: int
    data: bytes
    pixels: NDArray[np.uint8]
    latents: NDArray[np.float32] | None


def _stored_images(
    manifest: ShardManifest, reader: ShardReader, rows: Iterable[int], image_size: int
) -> Iterator[_StoredImage]:
    samples, has_latents = manifest.samples, manifest.num_latents > 0
    for row in map(int, rows):
        shard = int(samples.shard[row])
        places = samples.images(row)
        member, place, latents = -1, samples.about(row) or places[0], None
        try:
            if has_latents:
                latents = read_latents(reader.read(shard, place), len(places))
            for member, place in enumerate(places):
                data = reader.read(shard, place)
                pixels = decode_image(data, image_size)
                yield _StoredImage(row, member, data, pixels, None if latents is None else latents[member])
        except ShardError:
            raise
        except InvalidInput as error:
            name = manifest.shards[shard].name
            raise BadSample(name, samples.key(row), member, place.offset, str(error), epoch=0).error() from None


def plain_stream(
    urls: str | Sequence[str], *, image_size: int, batch_size: int, shuffle: int = 1000, seed: int = 0
) -> Iterator[Batch]:
    """One pass over shards that have no manifest (`pipe:` and web addresses too), by webdataset and its shuffle buffer.

    One image of each sample; rows, label, domain and group are -1, for only a manifest knows them. The last batch may
    have less. For a look at a data set, not for training: nothing here is resumed or split over ranks.

    Raises:
        ShardError: a sample without an image, or one that cannot be decoded.
    """
    try:
        import webdataset
    except ModuleNotFoundError:
        raise MissingDependency("plain_stream needs webdataset: pip install 'viewfold[train]'") from None
    samples = webdataset.WebDataset(urls, shardshuffle=False).shuffle(shuffle, rng=random.Random(seed))
    decoded = (_plain_image(sample, image_size) for sample in samples)
    while chunk := list(islice(decoded, batch_size)):
        keys, pixels = zip(*chunk, strict=True)
        none = torch.full((len(chunk),), -1)
        yield Batch(
            images=torch.from_numpy(np.stack(pixels))[None],
            keys=list(keys),
            rows=none,
            epochs=torch.zeros_like(none),
            members=torch.zeros_like(none)[None],
            label=none,
            domain=none,
            group=none,
            latents=None,
        )


def _plain_image(sample: Mapping[str, Any], image_size: int) -> tuple[str, NDArray[np.uint8]]:
    shard, key = Path(sample["__url__"]).stem, sample["__key__"]
    data = next((sample[ext] for ext in sorted(sample) if is_image(ext)), None)
    if data is None:
        raise ShardError(shard, "no image among its members", key)
    try:
        return f"{shard}/{key}", decode_image(data, image_size)
    except InvalidInput as error:
        raise ShardError(shard, str(error), key) from None
