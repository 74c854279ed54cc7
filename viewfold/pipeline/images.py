"""Stored images in the order of a manifest, for evaluation, embedding and pictures."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewfold.errors import InvalidInput, ShardError
from viewfold.pipeline.decode import decode_image
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.quarantine import BadSample
from viewfold.pipeline.reader import ShardReader
from viewfold.pipeline.steps import read_latents


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
        shard = manifest.shard(row)
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
