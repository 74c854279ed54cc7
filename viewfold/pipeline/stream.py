"""Batches for training from plain shards: every step's batch is a function of (manifest, configuration, rank, step).

Nothing is carried from one step to the next, so loader processes, a restart inside an epoch and another number of ranks
change nothing in what is seen, and where a stream stands is a few integers.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader

from viewfold.config import Config
from viewfold.errors import InvalidInput
from viewfold.pipeline.ledger import Ledger
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.order.balanced import Balanced
from viewfold.pipeline.order.plan import Order, Plan, Tail
from viewfold.pipeline.quarantine import Quarantine
from viewfold.pipeline.steps import Drawing, Made, StepBatches
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
    classes_per_batch: int = 0
    """0: every sample once an epoch. Otherwise batches of this many classes, `batch_size` divided by it images of
    each, spread over their domains."""
    lanes: int = 0
    """Stretches of the data that every batch takes equal shares of and that are dealt to the ranks; divides
    `batch_size`. 0: the divisor next below its square root."""
    block: int = 256
    """Neighbouring samples that stay near each other in the order: larger reads fewer shards at a time, smaller mixes
    better. For remote shards, about the samples of one shard."""
    tail: Tail = "carry"
    """What becomes of an epoch's last samples: they open the next epoch's first batch (`carry`), are left out
    (`drop`), or are filled up to a batch with samples of the same epoch (`pad`)."""
    loader_workers: int = 0
    """Processes that read and decode for each rank; 0 does it in the training process."""
    max_bad_share: float = 0.0
    """Share of the samples that may turn out unreadable, in 0..1; at 0 the first one ends the run."""
    ledger: str = ""
    """Folder in which every rank writes down what it consumed; none where it is empty."""

    RUNNING: ClassVar[tuple[str, ...]] = ("loader_workers", "ledger")

    def __post_init__(self) -> None:
        least = {"batch_size": 1, "image_size": 8, "block": 1, "loader_workers": 0, "lanes": 0, "classes_per_batch": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if not 0 <= self.max_bad_share < 1:
            raise ValueError(f"max_bad_share must lie in 0..1 and below 1, got {self.max_bad_share}")
        for name in ("lanes", "classes_per_batch"):
            if (parts := getattr(self, name)) and self.batch_size % parts:
                near = min(_divisors(self.batch_size), key=lambda divisor: abs(divisor - parts))
                raise ValueError(f"{name}={parts} does not divide batch_size={self.batch_size}; use {near}")


class Stream(Iterator[Batch]):
    """One rank's batches from one step on."""

    def __init__(self, loader: "DataLoader[Made]", steps: StepBatches, quarantine: Quarantine, step: int) -> None:
        self._batches: Iterator[Made] = iter(loader)
        self._steps, self._quarantine, self._step = steps, quarantine, step
        self._ledger: Ledger | None = None

    def keep(self, ledger: Ledger) -> None:
        """Write every batch down from now on, as it is handed out."""
        self._ledger = ledger

    @property
    def num_bad(self) -> int:
        """Distinct samples that could not be read so far, by all ranks."""
        return self._quarantine.count

    def close(self) -> None:
        """Stop the loader processes and close the shards; done by itself at the end."""
        self._batches = iter(())
        self._steps.close()

    def __next__(self) -> Batch:
        made = next(self._batches, None)
        if made is None:
            self.close()
            raise StopIteration
        if made.fatal is not None:
            raise made.fatal
        self._quarantine.admit(made.bad_samples, step=self._step)
        if made.batch is None:
            raise made.bad_samples[0].error()
        if self._ledger is not None:
            self._ledger.take(self._step, made.places, made.batch, key_of=self._steps.key)
        self._step += 1
        return made.batch


def stream_batches(
    manifest: ShardManifest,
    config: StreamConfig,
    *,
    rank: int = 0,
    world_size: int = 1,
    start_step: int = 0,
    num_steps: int,
    quarantine: Path | None = None,
) -> Stream:
    """This rank's places of the global batches `start_step` to `start_step + num_steps`.

    A sample that cannot be read is replaced by the next good one of its lane (or cell), on any number of ranks the same
    one, so batches stay equal in size; each is written to `quarantine` once.

    Raises:
        InvalidInput: what `check_stream` finds. Raised by the call, before the first batch.
        ShardError: a sample that cannot be read where none is allowed, or a shard that is gone or changed.
        TrainingStopped: the share of bad samples is exceeded.
    """
    check_stream(manifest, config, world_size=world_size)
    steps = _step_batches(manifest, config, rank=rank, world_size=world_size)
    loader = DataLoader(
        steps,
        batch_size=None,
        sampler=range(start_step, start_step + num_steps),
        num_workers=config.loader_workers,
        collate_fn=_as_it_is,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # otherwise a draw is taken from the global one
    )
    budget = Quarantine(quarantine, max_bad_share=config.max_bad_share, num_samples=len(manifest))
    return Stream(loader, steps, budget, start_step)


def sample_batch(manifest: ShardManifest, config: StreamConfig, row: int, epoch: int, *, size: int = 1) -> Batch:
    """`size` times one sample: row `row` of the manifest with the stored images that `epoch` shows of it.

    The same bits as in any batch of `stream_batches` that holds the sample in that epoch.

    Raises:
        ShardError: the sample cannot be read, or its shard is gone or changed.
    """
    steps = _step_batches(manifest, config, rank=0, world_size=1)
    try:
        return steps.copies(row, epoch, size)
    finally:
        steps.close()


def position_of(manifest: ShardManifest, config: StreamConfig, row: int, epoch: int) -> tuple[int, int] | None:
    """The step whose global batch holds the sample in that epoch, and its place there; None where it is left out."""
    return make_order(manifest, config).find(row, epoch)


def make_order(manifest: ShardManifest, config: StreamConfig) -> Order:
    """The order of the samples that a configuration asks for."""
    if config.classes_per_batch:
        return Balanced(
            identity=manifest.hash,
            label=manifest.label,
            domain=manifest.domain,
            group=manifest.group,
            domain_names=manifest.domains,
            classes_per_batch=config.classes_per_batch,
            images_per_class=config.batch_size // config.classes_per_batch,
            seed=config.seed,
        )
    return Plan(
        identity=manifest.hash,
        num_samples=len(manifest),
        global_batch=config.batch_size,
        seed=config.seed,
        lanes=config.lanes or max(n for n in _divisors(config.batch_size) if n <= math.isqrt(config.batch_size)),
        block=config.block,
        tail=config.tail,
    )


def _step_batches(manifest: ShardManifest, config: StreamConfig, *, rank: int, world_size: int) -> StepBatches:
    local = config.batch_size // world_size
    drawing = Drawing(rank * local, (rank + 1) * local, config.image_size, config.seed, config.pair)
    return StepBatches(manifest, make_order(manifest, config), drawing)


def _as_it_is(made: Any) -> Any:
    return made


def check_stream(manifest: ShardManifest, config: StreamConfig, *, world_size: int) -> None:
    """Whether `stream_batches` can serve this, without reading a sample.

    Raises:
        InvalidInput: the batch does not divide over the ranks, there are fewer samples than one batch, a sample of one
            image where pairs are asked for, or classes and domains that cannot fill a balanced batch.
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
    make_order(manifest, config)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _either(numbers: Sequence[int]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} or {last}" if first else last
