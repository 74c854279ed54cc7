"""From a batch of stored images to the views that a method trains on."""

import torch

from viewfold.augment.frame import Frame
from viewfold.augment.params import relative_names, relative_params
from viewfold.augment.policies import PolicyConfig
from viewfold.augment.view import describe, draw_view, locate, param_names, render
from viewfold.values import Batch, Views


def make_views(
    batch: Batch, policy: PolicyConfig, *, seed: int, device: torch.device | str = "cpu", compiled: bool = False
) -> Views:
    """The views of `batch` on `device`, float32 in 0..1, with what was done to make them.

    A policy without transforms gives the stored images. Any other gives one drawn view for each stored image, or two
    for a single one. A view is a function of (seed, epoch, sample key, view number) and the image: neither the batch
    that the sample sits in, nor its place there, nor the rank changes it. `compiled` is that of `render`.
    """
    stored = batch.images.to(device, non_blocking=True)  # in bytes: a quarter of what float32 would move
    num_images, _, _, height, width = stored.shape
    drawn = bool(policy.transforms())
    num_views = max(2, num_images) if drawn else num_images
    epochs = batch.epochs.tolist()
    images, columns, folds = [], [], []
    for view in range(num_views):
        draws = draw_view(policy, seed=seed, epochs=epochs, samples=batch.keys, view=view, device=device)
        places = locate(policy, draws, height, width)
        images.append(render(policy, stored[view % num_images], draws, places=places, compiled=compiled))
        told = describe(policy, draws, height=height, width=width, places=places)
        columns.append(told.params)
        folds += [told.fold_fraction] if told.fold_fraction is not None else []
    latents = batch.latents if batch.latents is not None and _keeps_latents(policy, num_images) else None
    recorded = [latents.to(device).float()] if latents is not None else []
    names = param_names(policy)
    return Views(
        images=torch.stack(images),
        params=torch.cat([*recorded, torch.stack(columns)], dim=2) if recorded or drawn else None,
        names=view_param_names(policy, num_images=num_images, num_latents=0 if latents is None else latents.shape[2]),
        relative=relative_params(columns[0], columns[1], names, Frame.corners(height, width)) if drawn else None,
        relative_names=relative_names(names),
        facts={"fold_fraction": torch.stack(folds).mean()} if folds else {},
        label=batch.label.to(device),
        domain=batch.domain.to(device),
        group=batch.group.to(device),
        parent=None if batch.parent is None else batch.parent.to(device),
    )


def view_param_names(policy: PolicyConfig, *, num_images: int, num_latents: int) -> tuple[str, ...]:
    """Names of the columns of `Views.params` for batches of `num_images` stored images with `num_latents` latents.

    The recorded latents come first, then what was drawn. The latents of a single stored image are left out where views
    are drawn: they are the same in both views, so they say nothing of what differs.
    """
    recorded = num_latents if _keeps_latents(policy, num_images) else 0
    return tuple(f"latent_{i}" for i in range(recorded)) + param_names(policy)


def _keeps_latents(policy: PolicyConfig, num_images: int) -> bool:
    return num_images > 1 or not policy.transforms()
