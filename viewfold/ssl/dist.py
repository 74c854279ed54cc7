"""The one file that knows about ranks. On one rank every function here is the identity, or the plain local value.

The convention, for engines that average gradients over ranks (DDP, DeepSpeed): a loss value may differ between ranks,
but its mean over ranks is the loss of the global batch, and then the averaged gradient is the gradient of that loss.
All ranks hold the same number of rows.
"""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

_SMALL = 1 << 16
"""Values below which gloo's gather and a sum are faster than its reduction: 0.6 ms, not 1.4, for a layer's moments."""


def rank() -> int:
    """Number of this process among those that train together, from 0."""
    return dist.get_rank() if _joined() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _joined() else 1


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of every rank's `x`, differentiable; all ranks get the same value."""
    return x if world_size() == 1 else _Sum.apply(x)


def gather_rows(x: Shaped[Tensor, "batch ..."]) -> Shaped[Tensor, "all_rows ..."]:
    """The rows of all ranks in rank order, differentiable with respect to this rank's rows.

    The gradient that reaches this rank is the sum of what all ranks' losses say about its rows.
    """
    return x if world_size() == 1 else _Gather.apply(x)


@torch.no_grad()
def gather_values(x: Shaped[Tensor, "batch ..."]) -> Shaped[Tensor, "all_rows ..."]:
    """The rows of all ranks in rank order, of any type, outside the graph."""
    return gather_rows(x)


def mean_of_valid(values: Float[Tensor, " batch"], valid: Bool[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Mean over the valid rows of all ranks, however they are spread; 0 when there is none.

    This rank returns its own rows' share times the number of ranks, so that the mean over ranks is that mean.
    """
    num_valid = sum_over_ranks(valid.sum().to(values)).clamp(min=1)
    return torch.where(valid, values, 0).sum() * world_size() / num_valid


class _Sum(torch.autograd.Function):
    """All-reduce; its backward is the same all-reduce."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _all_reduced(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _all_reduced(grad)


class _Gather(torch.autograd.Function):
    """All-gather; its backward sums the ranks' gradients and keeps this rank's rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        rows = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(rows, x.contiguous())
        return torch.cat(rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _all_reduced(grad).chunk(world_size())[rank()]


def _all_reduced(x: Tensor) -> Tensor:
    if x.device.type == "cpu" and x.numel() * world_size() <= _SMALL:
        rows = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(rows, x.contiguous())
        return torch.stack(rows).sum(dim=0)
    total = x.clone(memory_format=torch.contiguous_format)  # all_reduce writes into what it is given
    dist.all_reduce(total)
    return total


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()
