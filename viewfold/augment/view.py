"""One view of each image: drawn by key, rendered in one sampling, told in a few numbers."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Num
from torch import Tensor

from viewfold.augment.draws import view_keys
from viewfold.augment.frame import Frame, resample
from viewfold.augment.geometry import common_frame, compose, fold_fraction, nearest_affine
from viewfold.augment.params import GEOMETRY, geometry_columns
from viewfold.augment.policies import PolicyConfig
from viewfold.augment.transform import Geometric, Photometric, Transform
from viewfold.errors import InvalidInput

_CHUNK_PIXELS = 2**16
"""Pixels that are rendered together on a CPU: their planes stay in its second-level cache."""


@dataclass(frozen=True)
class Description:
    """What a policy's draws do, without the images."""

    params: Float[Tensor, "batch param"]
    """The columns `param_names`."""
    fold_fraction: Float[Tensor, " batch"] | None
    """Share of each view that the geometry folds over; None for a policy that cannot fold."""


def draw_view(
    policy: PolicyConfig,
    *,
    seed: int,
    epochs: Sequence[int],
    samples: Sequence[str],
    view: int,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "batch draw"]:
    """All that is random in view number `view` of each sample: the columns `draw_names`, what `render` takes."""
    keys = view_keys(seed, epochs, samples, view).to(device)
    with _full_precision(keys):
        drawn = [transform.draw(keys) for transform in policy.transforms()]
    return torch.cat(drawn, dim=1) if drawn else torch.empty(len(keys), 0, device=device)


def draw_names(policy: PolicyConfig) -> tuple[str, ...]:
    """Name and unit of each column of `draw_view`."""
    return tuple(name for transform in policy.transforms() for name in transform.names)


def param_names(policy: PolicyConfig) -> tuple[str, ...]:
    """Name and unit of each column of `Description.params`: the geometry as a whole, then each colour family."""
    transforms = policy.transforms()
    geometric = GEOMETRY if any(isinstance(transform, Geometric) for transform in transforms) else ()
    return geometric + tuple(label for t in transforms if isinstance(t, Photometric) for label in t.labels)


def locate(
    policy: PolicyConfig, draws: Float[Tensor, "batch draw"], height: int, width: int
) -> Float[Tensor, "batch 2 rows columns"] | None:
    """Where the views' nodes are read in stored images of this size; None for a policy that moves nothing.

    `render` and `describe` find it themselves, unless they are handed it.
    """
    with _full_precision(draws):
        return _places(_split(policy.transforms(), draws)[0], height, width)


def render(
    policy: PolicyConfig,
    images: Num[Tensor, "batch 3 height width"],
    draws: Float[Tensor, "batch draw"],
    *,
    places: Float[Tensor, "batch 2 rows columns"] | None = None,
    compiled: bool = False,
) -> Float[Tensor, "batch 3 height width"]:
    """Views (float32, 0..1) of images (uint8 as stored, or numbers in 0..1).

    The same draws give the same bits on the same device, in any batch.

    `compiled` lets `torch.compile` fuse the whole, `places` included: for GPUs, and for shapes that stay the same; the
    first call takes a minute.

    Raises:
        InvalidInput: images without three channels, or of less than 2 x 2 pixels.
    """
    if images.shape[1] != 3:
        raise InvalidInput(f"views need images with 3 channels, red, green and blue; got {images.shape[1]}")
    rows = _CHUNK_PIXELS // (images.shape[2] * images.shape[3]) or 1
    with _full_precision(images):
        if compiled:
            return _compiled(policy)(images, draws)
        return _render(policy.transforms(), images, draws, places, rows=rows)


def describe(
    policy: PolicyConfig,
    draws: Float[Tensor, "batch draw"],
    *,
    height: int,
    width: int,
    places: Float[Tensor, "batch 2 rows columns"] | None = None,
) -> Description:
    """What `render` does to images of this size."""
    with _full_precision(draws):
        return _describe(policy.transforms(), draws, height, width, places)


def _describe(
    transforms: Sequence[Transform], draws: Tensor, height: int, width: int, places: Tensor | None
) -> Description:
    geometric, photometric = _split(transforms, draws)
    columns, folds = [draws[:, :0]], None
    places = _places(geometric, height, width) if places is None else places
    if places is not None:
        families = [family for family, _ in geometric]
        frame = common_frame(families, height, width)
        columns.append(geometry_columns(nearest_affine(places, frame), frame))
        if not all(family.is_affine for family in families):
            folds = fold_fraction(places, frame)
    columns += [family.describe(drawn, Frame.coarse(height, width)) for family, drawn in photometric]
    return Description(torch.cat(columns, dim=1), folds)


def _render(
    transforms: Sequence[Transform], images: Tensor, draws: Tensor, places: Tensor | None, *, rows: int
) -> Tensor:
    """`rows` images at a time on a CPU, all of them elsewhere."""
    geometric, photometric = _split(transforms, draws)
    height, width = images.shape[2:]
    places = _places(geometric, height, width) if places is None else places
    frame = common_frame([family for family, _ in geometric], height, width)
    step = rows if images.device.type == "cpu" else len(images)
    views = torch.empty_like(images, dtype=torch.float32)
    for first in range(0, len(images), step):
        own = slice(first, first + step)
        part = images[own].float() / 255 if images.dtype == torch.uint8 else images[own].float()
        part = part if places is None else resample(part, places[own], frame)
        for family, drawn in photometric:
            part = family.apply(part, drawn[own])
        views[own] = part
    return views


def _full_precision(tensor: Tensor) -> torch.autocast:
    """Coordinates and colours are float32 even where a caller trains in less."""
    return torch.autocast(tensor.device.type, enabled=False)


def _places(geometric: Sequence[tuple[Geometric, Tensor]], height: int, width: int) -> Tensor | None:
    if not geometric:
        return None
    families, drawn = zip(*geometric, strict=True)
    return compose(families, drawn, common_frame(families, height, width))


@functools.cache
def _compiled(policy: PolicyConfig) -> Callable[[Tensor, Tensor], Tensor]:
    whole = functools.partial(_render, policy.transforms(), places=None, rows=2**31)
    compiled: Callable[[Tensor, Tensor], Tensor] = torch.compile(whole, dynamic=False, fullgraph=True)
    return compiled


def _split(
    transforms: Sequence[Transform], draws: Float[Tensor, "batch draw"]
) -> tuple[list[tuple[Geometric, Tensor]], list[tuple[Photometric, Tensor]]]:
    """Each family with its columns; those that move points, then those that change colours."""
    parts = list(zip(transforms, torch.split(draws, [len(t.names) for t in transforms], dim=1), strict=True))
    geometric = [(family, drawn) for family, drawn in parts if isinstance(family, Geometric)]
    return geometric, [(family, drawn) for family, drawn in parts if isinstance(family, Photometric)]
