"""Doing the work only where something was drawn."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def change_drawn_rows(
    change: Callable[[Tensor, Tensor], Tensor],
    images: Float[Tensor, "batch 3 height width"],
    draws: Float[Tensor, "batch draw"],
) -> Float[Tensor, "batch 3 height width"]:
    """`change(images, draws)`, but a row whose draws are all zero keeps its bits; may be `images` itself.

    A CPU computes the drawn rows alone. A GPU would have to be waited for to know which they are, so it computes all.
    """
    drawn = (draws != 0).any(1)
    if not on_eager_cpu(images):
        return torch.where(drawn[:, None, None, None], change(images, draws), images)
    rows = drawn.nonzero()[:, 0]
    if len(rows) == len(images):
        return change(images, draws)
    return images.index_copy(0, rows, change(images[rows], draws[rows])) if len(rows) else images


def on_eager_cpu(images: Tensor) -> bool:
    """Whether values can be looked at for nothing: on a CPU, and not while `torch.compile` traces."""
    return images.device.type == "cpu" and not torch.compiler.is_compiling()
