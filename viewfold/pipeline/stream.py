"""Batches for training from plain shards: every step's batch is a function of (manifest, configuration, rank, step).

Nothing is carried from one step to the next, so loader processes, a restart inside an epoch and another number of ranks
change nothing in what is seen, and where a stream stands is a few integers.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from viewfold.errors import InvalidInput
from viewfold.pipeline.ledger import Ledger
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.partners import Partners
from viewfold.pipeline.quarantine import Quarantine
from viewfold.pipeline.state import StreamState, stream_state
from viewfold.pipeline.steps import Drawing, Made, StepBatches
from viewfold.pipeline.stream_config import StreamConfig, make_order
from viewfold.values import Batch


class Stream(Iterator[Batch]):
    """One rank's batches from one step on."""

    def __init__(
        self, manifest: ShardManifest, config: StreamConfig, steps: StepBatches, sampler: range, quarantine: Path | None
    ) -> None:
        self._manifest, self._config, self._steps = manifest, config, steps
        self._step = sampler.start
        num_samples = len(manifest) if steps.partners is None else len(steps.partners.anchors)
        self._quarantine = Quarantine(quarantine, max_bad_share=config.max_bad_share, num_samples=num_samples)
        self._ledger: Ledger | None = None
        self.num_repeated = 0
        """Places of this rank so far that hold a sample again, only to fill a batch."""
        loader = DataLoader(
            steps,
            batch_size=None,
            sampler=sampler,
            num_workers=config.loader_workers,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # otherwise a draw is taken from the global one
        )
        self._batches: Iterator[Made] = iter(loader)

    def keep(self, ledger: Ledger) -> None:
        """Write every batch down from now on, as it is handed out."""
        self._ledger = ledger

    def state(self, step: int) -> StreamState:
        """Where the stream stands before the batch of `step`: after as many optimizer steps."""
        pairs = "" if self._steps.partners is None else self._steps.partners.hash
        return stream_state(self._steps.order, self._manifest.hash, self._config, step, pairs=pairs)

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
            self._ledger.take(self._step, made.places, made.batch, key_of=self._manifest.key)
        self.num_repeated += int(made.places.repeated.sum())
        self._step += 1
        return made.batch


def stream_batches(  # noqa: PLR0913  # an eighth: pairs belong to the data, which does not know of them
    manifest: ShardManifest,
    config: StreamConfig,
    *,
    rank: int = 0,
    world_size: int = 1,
    start_step: int = 0,
    num_steps: int,
    quarantine: Path | None = None,
    partners: Partners | None = None,
) -> Stream:
    """This rank's places of the global batches `start_step` to `start_step + num_steps`.

    With `partners` every place shows one image of a sample that has any, and that of its partner in this epoch; the
    order runs over these samples alone. A partner that cannot be read is a bad sample, and takes the whole place along.

    A sample that cannot be read is replaced by the next good one of its lane (or cell), on any number of ranks the same
    one, so batches stay equal in size; each is written to `quarantine` once.

    Raises:
        InvalidInput: what `check_stream` finds. Raised by the call, before the first batch.
        ShardError: a sample that cannot be read where none is allowed, or a shard that is gone or changed.
        TrainingStopped: the share of bad samples is exceeded.
    """
    check_stream(manifest, config, world_size=world_size, partners=partners)
    steps = _step_batches(manifest, config, partners, rank=rank, world_size=world_size)
    return Stream(manifest, config, steps, range(start_step, start_step + num_steps), quarantine)


def sample_batch(
    manifest: ShardManifest,
    config: StreamConfig,
    row: int,
    epoch: int,
    *,
    size: int = 1,
    partners: Partners | None = None,
) -> Batch:
    """`size` times one sample: row `row` of the manifest with the stored images that `epoch` shows of it.

    The same bits as in any batch of `stream_batches` that holds the sample in that epoch.

    Raises:
        ShardError: the sample cannot be read, or its shard is gone or changed.
        InvalidInput: it has no partner.
    """
    steps = _step_batches(manifest, config, partners, rank=0, world_size=1)
    try:
        return steps.copies(row, epoch, size)
    finally:
        steps.close()


def position_of(
    manifest: ShardManifest, config: StreamConfig, row: int, epoch: int, *, partners: Partners | None = None
) -> tuple[int, int] | None:
    """The step whose global batch holds the sample in that epoch, and its place there; None where it is left out."""
    return make_order(manifest, config, partners).find(row, epoch)


def _step_batches(
    manifest: ShardManifest, config: StreamConfig, partners: Partners | None, *, rank: int, world_size: int
) -> StepBatches:
    local = config.batch_size // world_size
    drawing = Drawing(rank * local, (rank + 1) * local, config.image_size, config.seed, config.images_per_sample)
    return StepBatches(manifest, make_order(manifest, config, partners), drawing, partners)


def _as_it_is(made: Any) -> Any:
    return made


def check_stream(
    manifest: ShardManifest, config: StreamConfig, *, world_size: int, partners: Partners | None = None
) -> None:
    """Whether `stream_batches` can serve this, without reading a sample.

    Raises:
        InvalidInput: the batch does not divide over the ranks, there are fewer samples than one batch, a sample of one
            image where pairs are asked for, mined pairs and pairs of one sample at once, or classes and domains that
            cannot fill a balanced batch.
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
    if partners is not None:
        _check_partners(partners, config)
    elif config.images_per_sample > 1:
        few = manifest.samples.fewer_images(config.images_per_sample)
        if len(few):
            raise InvalidInput(
                f"images_per_sample={config.images_per_sample} needs as many stored images of each sample, "
                f"{manifest.key(int(few[0]))} has {manifest.num_images(int(few[0]))} ({len(few)} such samples); "
                "set images_per_sample=1"
            )
    make_order(manifest, config, partners)


def _check_partners(partners: Partners, config: StreamConfig) -> None:
    if config.images_per_sample > 1:
        raise InvalidInput(
            f"images_per_sample={config.images_per_sample} has no place beside mined pairs, which show one image of a "
            "sample and its partner's; set images_per_sample=1"
        )
    if len(partners.anchors) < config.batch_size:
        raise InvalidInput(
            f"batch_size={config.batch_size} is more than the {len(partners.anchors)} samples that have a mined pair; "
            "use at most that, or mine more"
        )


def _either(numbers: Sequence[int]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} or {last}" if first else last
