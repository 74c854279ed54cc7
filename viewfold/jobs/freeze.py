"""Every image of two manifests as one encoder sees it: what a head is fitted on, and what it is asked about."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from viewfold.errors import InvalidInput
from viewfold.keyed import generator
from viewfold.pipeline.images import read_images
from viewfold.pipeline.manifest import ShardManifest
from viewfold.ssl.encoder import Encoder, Features
from viewfold.ssl.evaluate import Split, with_batch_statistics
from viewfold.ssl.evaluate.measure import finite

BnMode = Literal["frozen", "official"]

_ALONE = 1 << 40  # beyond every vocabulary of groups, and twice it beyond every sample
_BATCH = 256
_MIXED_BATCHES = 16  # held in memory to be mixed: 800 MB at 256 px


@dataclass(frozen=True)
class Frozen:
    """Every stored image of a manifest, one row an image; indices are those of the vocabularies of `freeze_pair`."""

    features: Features
    label: NDArray[np.int64]
    group: NDArray[np.int64]
    """What is not independent: the sample's group, or a number of its own for a sample without one."""
    grouped: bool
    """Whether every sample has a group."""
    domain: NDArray[np.int64]
    sample: NDArray[np.int64]
    """Row of the manifest that the image belongs to."""
    latents: torch.Tensor | None

    def __post_init__(self) -> None:
        finite(self.features.all)

    def part(self, name: str) -> torch.Tensor:
        """`[image, width]` of one part of the features."""
        rows: torch.Tensor = getattr(self.features, name)
        return rows

    def split(self, part: str) -> Split:
        """One part of the features with labels and groups."""
        return Split.of(self.part(part), self.label, self.group)


def freeze_pair(
    encoder: Encoder, train: ShardManifest, val: ShardManifest, *, bn_mode: BnMode = "frozen", seed: int = 0
) -> tuple[Frozen, Frozen]:
    """`train` and `val` as `encoder` sees them, with labels, groups and domains numbered by the names of `train`.

    Names that only `val` has get numbers beyond those. `official`: as the published probes, `train` passes in random
    batches under batch statistics, and `val` by the running statistics that this leaves.
    """
    if bn_mode == "official":
        known, encoder = _under_batch_statistics(encoder, train, seed)
    else:
        known = freeze(encoder, train)
    return known, numbered_as(freeze(encoder, val), val, train)


def numbered_as(asked: Frozen, val: ShardManifest, train: ShardManifest) -> Frozen:
    """`asked`, which is `val` encoded, with labels, groups and domains numbered as in `freeze_pair`."""
    return replace(
        asked,
        # Indices point into each manifest's own vocabularies, and two of these seldom hold the same names.
        label=translated(asked.label, val.labels, train.labels),
        group=np.where(asked.group < _ALONE, translated(asked.group, val.groups, train.groups), asked.group + _ALONE),
        domain=translated(asked.domain, val.domains, train.domains),
    )


def freeze(encoder: Encoder, manifest: ShardManifest) -> Frozen:
    """Encode every stored image of `manifest`, in this process; indices are those of its own vocabularies."""
    batches = _batches(encoder, manifest, np.arange(len(manifest)))
    parts = [encoder.encode(images) for images in batches.read()]
    return batches.frozen(Features(*(torch.cat(columns) for columns in zip(*map(_parts, parts), strict=True))))


def _under_batch_statistics(encoder: Encoder, manifest: ShardManifest, seed: int) -> tuple[Frozen, Encoder]:
    """Batches of images that are mixed within some thousands, read sample by sample in random order.

    Without it the views of an object would share a batch, whose statistics would tell the object.
    """
    rng = generator("batch statistics", seed)
    batches = _batches(encoder, manifest, rng.permutation(len(manifest)))
    places: list[torch.Tensor] = []

    def mixed() -> Iterator[torch.Tensor]:
        seen, reading = 0, batches.read()
        while held := list(islice(reading, _MIXED_BATCHES)):
            images = torch.cat(held)
            order = torch.from_numpy(rng.permutation(len(images)))
            places.append(order + seen)
            seen += len(images)
            yield from torch.split(images[order], _BATCH)

    features, drifted = with_batch_statistics(encoder, mixed(), seed=seed)
    back = torch.cat(places).argsort()
    return batches.frozen(Features(*(part[back] for part in _parts(features)))), drifted


def translated(indices: NDArray[np.int64], own: Sequence[str], other: Sequence[str]) -> NDArray[np.int64]:
    """Indices into `own` as indices into `other`; names that `other` lacks get numbers beyond it, and -1 stays.

    What is no index into `own` becomes -1.
    """
    place = {name: number for number, name in enumerate(dict.fromkeys([*other, *own]))}
    lookup = np.array([*(place[name] for name in own), -1], dtype=np.int64)
    return lookup[np.where(indices < len(own), indices, -1)]


class _Reading:
    """Images in batches, remembering whose they were."""

    def __init__(self, manifest: ShardManifest, rows: NDArray[np.int64], image_size: int) -> None:
        self._manifest, self._rows, self._image_size = manifest, rows, image_size
        self._samples: list[int] = []
        self._latents: list[torch.Tensor] = []

    def read(self) -> Iterator[torch.Tensor]:
        """uint8 images in batches."""
        for batch in read_images(self._manifest, self._rows, image_size=self._image_size, batch_size=_BATCH):
            self._samples += batch.rows
            self._latents += [] if batch.latents is None else [batch.latents]
            yield batch.images

    def frozen(self, features: Features) -> Frozen:
        """`features` of all that was read, with what is known of each image."""
        sample = np.asarray(self._samples)
        group = self._manifest.group[sample]
        return Frozen(
            features=features,
            label=self._manifest.label[sample],
            group=np.where(group < 0, _ALONE + sample, group),
            grouped=bool((group >= 0).all()),
            domain=self._manifest.domain[sample],
            sample=sample,
            latents=torch.cat(self._latents) if self._latents else None,
        )


def _batches(encoder: Encoder, manifest: ShardManifest, rows: NDArray[np.int64]) -> _Reading:
    if len(manifest) == 0:
        raise InvalidInput("no samples to evaluate on; check the shards and filters of `validation`")
    return _Reading(manifest, rows, encoder.config.preprocessing.image_size)


def _parts(features: Features) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return features.invariant, features.equivariant, features.all
