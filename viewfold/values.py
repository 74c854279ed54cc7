"""The values that cross from one library to the next: types only, no logic."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """What the stream hands to the augmentations: this rank's rows of one global batch, still on the host."""

    images: Tensor
    """uint8 `[image, batch, 3, height, width]`: one stored image of each sample, or two for a pair, of one object or of
    a sample and its mined partner."""
    keys: list[str]
    """Identity of each sample: shard name, a slash, the key within the shard."""
    rows: Tensor
    """int64 `[batch]`: row of each sample in the manifest's table."""
    epochs: Tensor
    """int64 `[batch]`: the epoch each sample belongs to; a batch may hold the end of one and the start of the next."""
    members: Tensor
    """int64 `[image, batch]`: which stored image of its own sample each one is."""
    label: Tensor
    """int64 `[batch]`: class index in the manifest's sorted labels; -1 for none, and, as in `domain` and `group`, where
    the two samples of a mined pair differ."""
    domain: Tensor
    """int64 `[batch]`: domain index in the manifest's sorted domains, -1 for none."""
    group: Tensor
    """int64 `[batch]`: what must not leak between query and pool; -1 for none."""
    latents: Tensor | None
    """float32 `[image, batch, latent]`: the recorded parameters of each stored image, where the samples have any."""
    partners: Tensor | None = None
    """int64 `[batch]`: row of the sample that the second image is of, where pairs were mined."""
    parent: Tensor | None = None
    """int64 `[2, batch]`: the parent clusters of both images of a mined pair, -1 for none; images of others may be its
    negatives."""


@dataclass(frozen=True)
class Views:
    """What the augmentations hand to a method: the views of a batch, on the device, with the draws that made them."""

    images: Tensor
    """float32 `[view, batch, 3, height, width]` in 0..1."""
    params: Tensor | None
    """float32 `[view, batch, param]`: the recorded latents of an object, then what was drawn to make each view."""
    names: tuple[str, ...]
    """Name and unit of each column of `params`, such as `rotation_rad`."""
    label: Tensor
    """int64 `[batch]`, -1 for none."""
    domain: Tensor
    """int64 `[batch]`, -1 for none."""
    group: Tensor
    """int64 `[batch]`, -1 for none."""
    relative: Tensor | None = None
    """float32 `[batch, relative]`: what takes the first view to the second, of what was drawn."""
    relative_names: tuple[str, ...] = ()
    """Name and unit of each column of `relative`."""
    parent: Tensor | None = None
    """int64 `[2, batch]`: the parent clusters of both images of a mined pair, -1 for none; None where views are not of
    such pairs."""
    facts: Mapping[str, Tensor] = field(default_factory=dict)
    """Scalars worth logging about how the views came out, such as `fold_fraction`."""
