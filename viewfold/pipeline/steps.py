"""One step's batch for one rank: drawn, read, decoded and put together, as a function of the step alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from viewfold.errors import InvalidInput, ShardError
from viewfold.keyed import key64, uniforms
from viewfold.pipeline.about import parse_about
from viewfold.pipeline.decode import decode_image
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.plan import Plan
from viewfold.pipeline.quarantine import BadSample
from viewfold.values import Batch


@dataclass(frozen=True)
class Drawing:
    """What one rank takes of every global batch, and which of a sample's images it is shown."""

    global_batch: int
    first: int
    """This rank has the places `first` to `last` of each global batch."""
    last: int
    image_size: int
    seed: int
    pair: bool


@dataclass(frozen=True)
class Made:
    """What a loader process hands back. Errors travel as values: torch would rebuild them from their message alone."""

    batch: Batch | None
    """None where no sample of this rank's rows could be read."""
    num_slots: int
    bad_samples: list[BadSample] = field(default_factory=list)
    fatal: ShardError | None = None


@dataclass(frozen=True, eq=False)
class _Sample:
    row: int
    epoch: int
    members: list[int]
    pixels: NDArray[np.uint8]
    latents: NDArray[np.float32] | None


class StepBatches(Dataset[Made]):
    """Item `step` is this rank's batch of that step."""

    def __init__(self, manifest: ShardManifest, plan: Plan, drawing: Drawing) -> None:
        self._manifest = manifest
        self._plan = plan
        self._drawing = drawing
        self._num_latents = manifest.num_latents
        self._reader = manifest.reader()

    def close(self) -> None:
        """Close the shards that this process opened."""
        self._reader.close()

    def __getitem__(self, step: int) -> Made:
        drawing = self._drawing
        rows, epochs = (part[drawing.first : drawing.last] for part in self._plan.batch(step, drawing.global_batch))
        return self.made(rows.tolist(), epochs.tolist())

    def made(self, rows: Sequence[int], epochs: Sequence[int]) -> Made:
        """These samples as their epochs show them, wherever the plan has put them."""
        samples: list[_Sample | None] = []
        bad_samples = []
        try:
            for row, epoch in zip(rows, epochs, strict=True):
                sample = self._sample(row, epoch)
                samples.append(sample if isinstance(sample, _Sample) else None)
                if isinstance(sample, BadSample):
                    bad_samples.append(sample)
        except ShardError as error:
            return Made(None, len(rows), fatal=error)
        good = [sample for sample in _replaced(samples) if sample is not None]
        return Made(self._batch(good) if good else None, len(rows), bad_samples)

    def _sample(self, row: int, epoch: int) -> _Sample | BadSample:
        """Read and decode one sample, or say why that cannot be done; a shard that cannot be opened is raised."""
        samples, shard = self._manifest.samples, int(self._manifest.samples.shard[row])
        places = samples.images(row)
        members = draw_members(self._drawing, self._manifest.key(row), epoch, num_images=len(places))
        member, place, latents = -1, samples.about(row) or places[0], None
        try:
            if self._num_latents:
                latents = read_latents(self._reader.read(shard, place), len(places))[members]
            pixels = []
            for member in members:
                place = places[member]
                pixels.append(decode_image(self._reader.read(shard, place), self._drawing.image_size))
        except ShardError:
            raise
        except InvalidInput as error:
            name = self._manifest.shards[shard].name
            return BadSample(name, samples.key(row), member, place.offset, str(error), epoch)
        return _Sample(row, epoch, members, np.stack(pixels), latents)

    def _batch(self, samples: Sequence[_Sample]) -> Batch:
        manifest, rows = self._manifest, [sample.row for sample in samples]
        latents = [sample.latents for sample in samples if sample.latents is not None]
        return Batch(
            images=torch.from_numpy(np.stack([sample.pixels for sample in samples], axis=1)),
            keys=[manifest.key(row) for row in rows],
            rows=torch.tensor(rows),
            epochs=torch.tensor([sample.epoch for sample in samples]),
            members=torch.tensor([sample.members for sample in samples]).T.contiguous(),
            label=torch.from_numpy(manifest.label[rows]),
            domain=torch.from_numpy(manifest.domain[rows]),
            group=torch.from_numpy(manifest.group[rows]),
            latents=torch.from_numpy(np.stack(latents, axis=1)) if latents else None,
        )


def _replaced(samples: Sequence[_Sample | None]) -> Iterator[_Sample | None]:
    """Each empty slot filled with the next sample that is there, going round; all empty stays empty."""
    for start in range(len(samples)):
        order = (samples[(start + ahead) % len(samples)] for ahead in range(len(samples)))
        yield next((sample for sample in order if sample is not None), None)


def draw_members(drawing: Drawing, identity: str, epoch: int, *, num_images: int) -> list[int]:
    """Which stored images of a sample this epoch shows: one, or two distinct ones in random order."""
    if num_images == 1:
        return [0]
    draw = uniforms([key64("members", drawing.seed, epoch, identity)], 2)[0]
    first = int(draw[0] * num_images)
    if not drawing.pair:
        return [first]
    second = int(draw[1] * (num_images - 1))
    return [first, second + (second >= first)]


def read_latents(data: bytes, num_images: int) -> NDArray[np.float32]:
    """`[image, latent]` from a sample's JSON.

    Raises:
        InvalidInput: it has none any more, or cannot be read.
    """
    latents = parse_about(data, num_images=num_images).latents
    if latents is None:
        raise InvalidInput("its latents are gone since it was indexed")
    return latents
