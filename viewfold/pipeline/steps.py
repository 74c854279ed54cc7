"""One step's batch for one rank: placed, read, decoded and put together, as a function of the step alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from viewfold.errors import InvalidInput, ShardError
from viewfold.keyed import key64, uniforms
from viewfold.pipeline.about import parse_about
from viewfold.pipeline.decode import decode_image
from viewfold.pipeline.locations import is_remote
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.order.plan import Order, Places
from viewfold.pipeline.partners import Partners
from viewfold.pipeline.quarantine import BadSample
from viewfold.pipeline.table import Entry
from viewfold.values import Batch

_MOST_STAND_INS = 32
"""Samples tried in the place of one that cannot be read; after that the shard as a whole is the problem."""


_ASKED_AT_ONCE = 16
"""Steps whose shards are asked for while one is made: the first batch must not wait for a window of them."""


@dataclass(frozen=True)
class Drawing:
    """What one rank takes of every global batch, and which of a sample's images it is shown."""

    first: int
    """This rank has the places `first` to `last` of each global batch."""
    last: int
    image_size: int
    seed: int
    images_per_sample: int


@dataclass(frozen=True)
class Made:
    """What a loader process hands back. Errors travel as values: torch would rebuild them from their message alone."""

    batch: Batch | None
    """None where nothing can be read in some place."""
    places: Places
    """What the order has at this rank's places; `batch.rows` differ where another sample stands in."""
    bad_samples: list[BadSample] = field(default_factory=list)
    fatal: ShardError | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Small tensors travel as arrays: each tensor would be a file of its own, and all of them cost 3 ms a batch."""
        if self.batch is None:
            return vars(self)
        columns = {
            name: value.numpy() if isinstance(value, Tensor) and name != "images" else value
            for name, value in vars(self.batch).items()
        }
        return {**vars(self), "batch": columns}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if (columns := state["batch"]) is not None:
            fields: dict[str, Any] = {
                name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
                for name, value in columns.items()
            }
            state = {**state, "batch": Batch(**fields)}
        vars(self).update(state)

    def pin_memory(self) -> "Made":
        """The images in page-locked memory, from which a GPU copies while it computes. torch's loader calls this."""
        if self.batch is None:
            return self
        return replace(self, batch=replace(self.batch, images=self.batch.images.pin_memory()))


@dataclass(frozen=True, eq=False)
class _Sample:
    row: int
    epoch: int
    key: str
    """With the shard's name."""
    names: tuple[int, ...]
    """Label, domain and group."""
    members: list[int]
    pixels: list[NDArray[np.uint8]]
    latents: NDArray[np.float32] | None
    partner: int = -1
    """Row of the sample of the second image, where pairs were mined."""
    parents: tuple[int, int] = (-1, -1)
    """Of both images, likewise."""

    def beside(self, other: "_Sample", parents: tuple[int, int]) -> "_Sample":
        """This and its partner as one, with the names on which they agree."""
        both = self.latents is not None and other.latents is not None
        return replace(
            self,
            names=tuple(a if a == b else -1 for a, b in zip(self.names, other.names, strict=True)),
            members=self.members + other.members,
            pixels=self.pixels + other.pixels,
            latents=np.concatenate([self.latents, other.latents]) if both else None,
            partner=other.row,
            parents=parents,
        )


class StepBatches(Dataset[Made]):
    """Item `step` is this rank's batch of that step."""

    def __init__(
        self, manifest: ShardManifest, order: Order, drawing: Drawing, partners: Partners | None = None
    ) -> None:
        self._manifest = manifest
        self.order = order
        self.partners = partners
        self._drawing = drawing
        self._reader = manifest.reader()
        self._is_remote = any(is_remote(shard.location) for shard in manifest.shards)
        self._asked = -1
        """The last step whose shards were asked for ahead."""

    def close(self) -> None:
        """Close the shards that this process opened."""
        self._reader.close()

    def __getitem__(self, step: int) -> Made:
        if self._is_remote:
            self._read_ahead(step)
        places = self.order.places(step, self._drawing.first, self._drawing.last)
        samples: list[_Sample] = []
        bad_samples: list[BadSample] = []
        try:
            for place, (row, epoch) in enumerate(zip(places.rows.tolist(), places.epochs.tolist(), strict=True)):
                sample: _Sample | BadSample | None = self._sample(row, epoch)
                if isinstance(sample, BadSample):
                    bad_samples.append(sample)
                    sample = self._stand_in(step, self._drawing.first + place, bad_samples)
                if sample is not None:
                    samples.append(sample)
        except ShardError as error:
            return Made(None, places, fatal=error)
        whole = len(samples) == len(places.rows)
        return Made(self._batch(samples) if whole else None, places, bad_samples)

    def copies(self, row: int, epoch: int, size: int) -> Batch:
        """`size` times one sample, as its epoch shows it, wherever the order has put it.

        Raises:
            ShardError: it cannot be read, or its shard is gone or changed.
            InvalidInput: it has no partner where pairs were mined.
        """
        sample = self._sample(row, epoch)
        if isinstance(sample, BadSample):
            raise sample.error()
        return self._batch([sample] * size)

    def _stand_in(self, step: int, place: int, bad_samples: list[BadSample]) -> _Sample | None:
        """The first of the order's stand-ins that can be read: the same one on any number of ranks."""
        for nth in range(1, _MOST_STAND_INS + 1):
            sample = self._sample(*self.order.stand_in(step, place, nth))
            if isinstance(sample, _Sample):
                return sample
            bad_samples.append(sample)
        return None

    def _sample(self, row: int, epoch: int) -> _Sample | BadSample:
        """Read and decode what the epoch shows of one sample, with its partner where pairs were mined."""
        entry = self._manifest.samples.entry(row)
        identity = f"{self._manifest.shards[entry.shard].name}/{entry.key}"
        if self.partners is None:
            members = draw_members(self._drawing, identity, epoch, num_images=len(entry.images))
            return self._read(row, epoch, entry, members)
        drawn = self.partners.draw(row, epoch, identity, self._drawing.seed)
        own = self._read(row, epoch, entry, [drawn.member])
        if isinstance(own, BadSample):
            return own
        entry = self._manifest.samples.entry(drawn.partner_row)
        partner = self._read(drawn.partner_row, epoch, entry, [drawn.partner_member])
        return partner if isinstance(partner, BadSample) else own.beside(partner, drawn.parents)

    def _read(self, row: int, epoch: int, entry: Entry, members: list[int]) -> _Sample | BadSample:
        """These images of a sample, or why they cannot be read; a shard that cannot be opened is raised."""
        shard, key, stored, about, names = entry
        name = self._manifest.shards[shard].name
        member, where, latents = -1, about or stored[0], None
        try:
            if self._manifest.num_latents:
                latents = read_latents(self._reader.read(shard, where), len(stored))[members]
            pixels = []
            for member in members:
                where = stored[member]
                pixels.append(decode_image(self._reader.read(shard, where), self._drawing.image_size))
        except ShardError:
            raise
        except InvalidInput as error:
            return BadSample(name, key, member, where.offset, str(error), epoch)
        return _Sample(row, epoch, f"{name}/{key}", names, members, pixels, latents)

    def _batch(self, samples: Sequence[_Sample]) -> Batch:
        latents = [sample.latents for sample in samples if sample.latents is not None]
        images = np.empty((len(samples[0].pixels), len(samples), *samples[0].pixels[0].shape), dtype=np.uint8)
        for place, sample in enumerate(samples):
            for image, pixels in enumerate(sample.pixels):
                images[image, place] = pixels
        label, domain, group = torch.tensor([sample.names for sample in samples]).T.contiguous()
        return Batch(
            images=torch.from_numpy(images),
            keys=[sample.key for sample in samples],
            rows=torch.tensor([sample.row for sample in samples]),
            epochs=torch.tensor([sample.epoch for sample in samples]),
            members=torch.tensor([sample.members for sample in samples]).T.contiguous(),
            label=label,
            domain=domain,
            group=group,
            latents=torch.from_numpy(np.stack(latents, axis=1)) if latents else None,
            partners=None if self.partners is None else torch.tensor([sample.partner for sample in samples]),
            parent=None
            if self.partners is None
            else torch.tensor([sample.parents for sample in samples]).T.contiguous(),
        )

    def _read_ahead(self, step: int) -> None:
        """Ask for the shards of the coming steps, in the order in which they are needed."""
        begin = max(step, self._asked + 1)
        ahead = min(step + 1 + self.order.steps_ahead, begin + _ASKED_AT_ONCE)
        for coming in range(begin, ahead):
            rows = self._rows(self.order.places(coming, self._drawing.first, self._drawing.last))
            self._reader.read_ahead(list(dict.fromkeys(self._manifest.samples.shard(rows).tolist())))
        self._asked = max(self._asked, ahead - 1)

    def _rows(self, places: Places) -> NDArray[np.int64]:
        """Rows in the order in which they are read, those of partners included."""
        if self.partners is None:
            return places.rows
        rows = []
        for row, epoch in zip(places.rows.tolist(), places.epochs.tolist(), strict=True):
            drawn = self.partners.draw(row, epoch, self._manifest.key(row), self._drawing.seed)
            rows += [row, drawn.partner_row]
        return np.array(rows)


def draw_members(drawing: Drawing, identity: str, epoch: int, *, num_images: int) -> list[int]:
    """Which stored images of a sample this epoch shows: distinct ones, in random order."""
    if num_images == 1:
        return [0]
    left = list(range(num_images))
    draws = uniforms([key64("members", drawing.seed, epoch, identity)], drawing.images_per_sample)[0]
    return [left.pop(int(draw * len(left))) for draw in draws]


def read_latents(data: bytes, num_images: int) -> NDArray[np.float32]:
    """`[image, latent]` from a sample's JSON.

    Raises:
        InvalidInput: it has none any more, or cannot be read.
    """
    latents = parse_about(data, num_images=num_images).latents
    if latents is None:
        raise InvalidInput("its latents are gone since it was indexed")
    return latents
