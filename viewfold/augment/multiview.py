"""From a batch of stored images to the views that a method trains on."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.augment.params import view_keys
from viewfold.augment.policies import PolicyConfig
from viewfold.values import Batch, Views


def make_views(batch: Batch, policy: PolicyConfig, *, seed: int, device: torch.device | str = "cpu") -> Views:
    """The views of `batch` on `device`, float32 in 0..1, with the parameters that made them.

    A policy without transforms gives the stored images. Any other gives one drawn view for each stored image, or two
    for a single one. A view is a function of (seed, epoch, sample key, view number) and the image: neither the batch
    that the sample sits in, nor its place there, nor the rank changes it.
    """
    stored = batch.images.to(device, non_blocking=True).float().div_(255)
    num_images = len(stored)
    drawn = bool(policy.transforms())
    num_views = max(2, num_images) if drawn else num_images
    epochs = batch.epochs.tolist()
    params = [draw_view(policy, seed=seed, epochs=epochs, samples=batch.keys, view=v) for v in range(num_views)]
    views = [apply_params(policy, stored[v % num_images], p.to(device)) for v, p in enumerate(params)]
    latents = batch.latents if num_images > 1 or not drawn else None
    columns = ([latents.float()] if latents is not None else []) + ([torch.stack(params)] if drawn else [])
    return Views(
        images=torch.stack(views),
        params=torch.cat(columns, dim=2).to(device) if columns else None,
        names=param_names(policy, num_images=num_images, num_latents=0 if latents is None else latents.shape[2]),
        label=batch.label.to(device),
        domain=batch.domain.to(device),
        group=batch.group.to(device),
    )


def param_names(policy: PolicyConfig, *, num_images: int, num_latents: int) -> tuple[str, ...]:
    """Names of the columns of `Views.params` for batches of `num_images` stored images with `num_latents` latents.

    The recorded latents come first, then the drawn parameters. The latents of a single stored image are left out where
    views are drawn: they are the same in both views, so they say nothing of what differs.
    """
    drawn = tuple(name for transform in policy.transforms() for name in transform.names)
    recorded = num_latents if num_images > 1 or not drawn else 0
    return tuple(f"latent_{i}" for i in range(recorded)) + drawn


def draw_view(
    policy: PolicyConfig, *, seed: int, epochs: Sequence[int], samples: Sequence[str], view: int
) -> Float[Tensor, "batch param"]:
    """The drawn parameters of view number `view` of each sample, in float32: what `apply_params` takes."""
    keys = view_keys(seed, epochs, samples, view)
    columns = [transform.draw(keys) for transform in policy.transforms()]
    return torch.from_numpy(np.hstack([np.empty((len(keys), 0)), *columns])).float()


def apply_params(
    policy: PolicyConfig, images: Float[Tensor, "batch 3 height width"], params: Float[Tensor, "batch param"]
) -> Float[Tensor, "batch 3 height width"]:
    """Make views (0..1) from images (0..1) and drawn parameters; the same parameters give the same bits."""
    first = 0
    for transform in policy.transforms():
        last = first + len(transform.names)
        images = transform.apply(images, params[:, first:last])
        first = last
    return images
