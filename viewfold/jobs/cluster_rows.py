"""Every stored image of a manifest as the cluster stage reads it: features, codes, pixels, and what is known of it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from viewfold.errors import InvalidInput
from viewfold.pipeline.images import read_images
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.progress import progress
from viewfold.ssl.encoder import Encoder, load_encoder
from viewfold.ssl.evaluate import Split
from viewfold.ssl.evaluate.measure import finite
from viewfold.ssl.kept_head import load_head
from viewfold.ssl.subspace_head import SubspaceHead

_BATCH = 256
_PIXEL_BYTES = 1 << 28  # of all images together, for the clusters of raw pixels


@dataclass(frozen=True)
class ClusterRows:
    """One row an image, in the order of the manifest."""

    encoder_id: str
    source: str
    """What Z and C are: `subspace head`, or the part of the features that stands for both."""
    keys: list[str]
    sample: NDArray[np.int64]
    """Row of the manifest that the image belongs to."""
    label: NDArray[np.int64]
    group: NDArray[np.int64]
    """What is not independent: the sample's group, or a number of its own for a sample without one."""
    z: Tensor
    """float32 `[image, dim]`, unit rows."""
    c: Tensor
    """float32 `[image, dim]`, unit rows: Z itself where nothing was trained to tell which images belong together."""
    features: Tensor
    """float32 `[image, part_dim]`, as the encoder gives them."""
    pixels: Tensor
    """float32 `[image, channel * pixel_side ** 2]`, standardised as the encoder's input."""
    pixel_side: int

    def split(self, rows: Tensor) -> Split:
        """`rows` `[image, dim]` with labels and groups."""
        return Split.of(rows, self.label, self.group)


def read_rows(folder: Path, manifest: ShardManifest, *, part: str) -> ClusterRows:
    """Encode every stored image of `manifest` in this process with the encoder of `folder`.

    Z and C come from the subspace head that was kept with it; without one they are the normalised features of `part`.

    Raises:
        InvalidInput: fewer than two images, no encoder, features that are not finite, or a part without any width.
    """
    num_images = int(manifest.samples.image_counts().sum())
    if num_images < 2:
        found = "only 1 image" if num_images else "no samples"
        raise InvalidInput(f"{found} to cluster, two are needed; check the shards and domains of the data")
    encoder = load_encoder(folder)
    kept = load_head(folder, encoder_id=encoder.id)
    head = kept if isinstance(kept, SubspaceHead) else None
    part = head.config.part if head else part
    if encoder.parts[part].start == encoder.parts[part].stop:
        raise InvalidInput(
            f"{folder}: this encoder's features have no part {part!r}; choose another with cluster.part="
        )
    encoder.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    reading = _read(encoder, manifest, part)
    features = finite(reading.features)
    z, c = _heads(head, features)
    sample = np.asarray(reading.sample)
    group = manifest.group[sample]
    return ClusterRows(
        encoder_id=str(encoder.id),
        source="subspace head" if head else f"{part} features",
        keys=reading.keys,
        sample=sample,
        label=manifest.label[sample],
        group=np.where(group < 0, len(manifest.groups) + sample, group),
        z=z,
        c=c,
        features=features,
        pixels=reading.pixels.flatten(1),
        pixel_side=reading.pixels.shape[-1],
    )


@dataclass(frozen=True)
class _Reading:
    keys: list[str]
    sample: list[int]
    features: Tensor
    pixels: Tensor


def _read(encoder: Encoder, manifest: ShardManifest, part: str) -> _Reading:
    size = encoder.config.preprocessing.image_size
    num_images = int(manifest.samples.image_counts().sum())
    side = _side(size, num_images, encoder.preprocess.channels)
    keys, sample, features, pixels = [], [], [], []
    with progress("encode", total=num_images) as bar:
        for batch in read_images(manifest, range(len(manifest)), image_size=size, batch_size=_BATCH):
            keys += batch.keys
            sample += batch.rows
            features.append(getattr(encoder.encode(batch.images), part))
            pixels.append(_pixels(encoder, batch.images, side))
            bar.advance(len(batch.keys))
    return _Reading(keys, sample, torch.cat(features), torch.cat(pixels))


@torch.no_grad()
def _pixels(encoder: Encoder, images: Tensor, side: int) -> Tensor:
    device = next(encoder.parameters()).device
    standard: Tensor = encoder.preprocess(images.to(device).float() / 255)
    return F.adaptive_avg_pool2d(standard, side).cpu()


def _side(size: int, num_images: int, channels: int) -> int:
    """The encoder's image size, halved until all images fit into memory: k-means on pixels needs no more detail."""
    side = size
    while side > 8 and 4 * channels * side**2 * num_images > _PIXEL_BYTES:
        side //= 2
    return side


@torch.no_grad()
def _heads(head: SubspaceHead | None, features: Tensor) -> tuple[Tensor, Tensor]:
    if head is None:
        unit = F.normalize(features, dim=1)
        return unit, unit
    parts = [head(chunk) for chunk in torch.split(features, 4096)]
    return torch.cat([z for z, _ in parts]), torch.cat([c for _, c in parts])
