"""The one file that knows about ranks. On one rank every function here is the identity, or the plain local value.

The convention, for engines that average gradients over ranks (DDP, DeepSpeed): a loss value may differ between ranks,
but its mean over ranks is the loss of the global batch, and then the averaged gradient is the gradient of that loss.
All ranks hold the same number of rows.
"""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from viewfold.errors import InvalidInput

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


def with_gathered_batchnorm(module: nn.Module) -> nn.Module:
    """`module` with every BatchNorm normalising by the statistics of all ranks' rows, changed in place.

    Call it after the ranks have joined: on one rank nothing is replaced. Parameters, buffers and their names stay the
    same, so a checkpoint fits both. Unlike `nn.SyncBatchNorm` it works on CPUs too.

    Raises:
        InvalidInput: a kind of BatchNorm that cannot be replaced without changing what it computes.
    """
    if world_size() == 1:
        return module
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return GatheredBatchNorm(module)
    for name, child in module.named_children():
        setattr(module, name, with_gathered_batchnorm(child))
    return module


class GatheredBatchNorm(nn.Module):
    """A BatchNorm over the rows of all ranks; shares parameters and buffers with the one that it replaces."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        plain = type(norm) in {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d}
        if not plain or norm.momentum is None or not norm.track_running_stats:
            raise InvalidInput(
                f"{type(norm).__name__} cannot take its statistics from several ranks; "
                "train this backbone on one rank, or choose one with plain BatchNorm layers or none"
            )
        self.eps, self.momentum = norm.eps, norm.momentum
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)
        self.train(norm.training)

    def forward(self, x: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel *space"]:
        """`x` normalised per channel; while training, by the biased variance of all ranks' rows."""
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        mean, var = self._moments(x)
        weight = torch.ones_like(mean) if self.weight is None else self.weight
        bias = torch.zeros_like(mean) if self.bias is None else self.bias
        normalised: Tensor = _Normalised.apply(x, weight, bias, mean, var, self.eps)
        return normalised

    @torch.no_grad()
    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance over all ranks, and the running statistics moved towards them.

        From each rank's own moments (law of total variance): exact for equal rows, and free of the cancellation of
        E[x^2] - E[x]^2.
        """
        # The kernel of BatchNorm itself, since `var_mean` is ten times slower on images; it moves what it is given.
        mean, var = torch.batch_norm_update_stats(x, self.running_mean.clone(), self.running_var.clone(), 0.0)
        means, variances = gather_values(torch.stack([mean, var])[None]).unbind(1)
        mean = means.mean(0)
        var = variances.mean(0) + (means - mean).square().mean(0)
        self._track(mean, var, num_values=world_size() * x.numel() // x.shape[1])
        return mean, var

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, num_values: int) -> None:
        """As torch does: the running variance is the unbiased one."""
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_((var * num_values / (num_values - 1)).to(self.running_var), self.momentum)


class _Normalised(torch.autograd.Function):
    """BatchNorm by the moments of all ranks, with torch's fused kernels: a step takes four fifths of the time.

    The gradient of the moments is in the backward: dx = w/s (dy - mean(dy) - xhat mean(dy xhat)), means over all ranks.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var)
        ctx.eps = eps
        return torch.native_batch_norm(x, weight, bias, mean, var, False, 0.0, eps)[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var = ctx.saved_tensors
        # The evaluation-mode kernel: dy w/s, and this rank's sums of dy xhat and of dy.
        by_x, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        num_values = world_size() * x.numel() // x.shape[1]
        mean_slope, mean_grad = (_all_reduced(torch.stack([by_weight, by_bias])) / num_values).unbind()
        inverse = torch.rsqrt(var + ctx.eps)
        slope = weight * inverse.square() * mean_slope
        offset = weight * inverse * mean_grad - slope * mean
        shape = (1, -1, *(1 for _ in x.shape[2:]))
        by_x = by_x - (x * slope.view(shape) + offset.view(shape))
        return by_x.to(x.dtype), by_weight, by_bias, None, None, None


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
