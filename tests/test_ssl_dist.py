"""Collectives and BatchNorm over ranks, against one process that has all the rows."""

import copy

import pytest
import torch
from ranks import run_ranks
from torch import Tensor, nn

from viewfold.errors import InvalidInput
from viewfold.ssl.dist import (
    GatheredBatchNorm,
    gather_rows,
    gather_values,
    mean_of_valid,
    rank,
    sum_over_ranks,
    with_gathered_batchnorm,
    world_size,
)


def _rows(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_one_rank_is_the_identity() -> None:
    x, norm = _rows(0, 3, 2), nn.BatchNorm1d(2)
    assert (rank(), world_size()) == (0, 1)
    assert sum_over_ranks(x) is x
    assert gather_rows(x) is x
    assert with_gathered_batchnorm(norm) is norm


def _gathered_and_summed(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    own = x.chunk(world_size())[rank()].clone().requires_grad_()
    rows, total = gather_rows(own), sum_over_ranks(own.square().sum(0))
    # The same value on every rank, which depends on every rank's rows.
    value = (rows.sin() * torch.arange(rows.numel()).view_as(rows)).sum() + total.square().sum()
    (grad,) = torch.autograd.grad(value, own)
    return gather_values(own.detach().round().long()), rows.detach(), value.detach(), grad


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_mean_gradient_through_gather_and_sum_is_that_of_one_process(num_ranks: int) -> None:
    x = _rows(1, 8, 3)
    integers, rows, value, grad = _gathered_and_summed(x)
    for number, result in enumerate(run_ranks(_gathered_and_summed, x, world_size=num_ranks)):
        torch.testing.assert_close(result[:3], (integers, rows, value))
        torch.testing.assert_close(result[3] / num_ranks, grad.chunk(num_ranks)[number])


def _share(values: Tensor, valid: Tensor) -> Tensor:
    return mean_of_valid(values.chunk(world_size())[rank()], valid.chunk(world_size())[rank()])


def test_mean_of_valid_rows_weighs_rows_and_not_ranks() -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 7.0])
    valid = torch.tensor([True, True, False, True])
    shares = run_ranks(_share, values, valid)
    assert torch.stack(shares).mean().item() == pytest.approx(10 / 3)
    assert mean_of_valid(values, torch.zeros(4, dtype=torch.bool)).item() == 0


def _trained_norm(norm: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor], dict[str, Tensor], Tensor]:
    """Three steps, so that the running statistics move; outputs, gradients, state, evaluated rows of the last one."""
    norm = with_gathered_batchnorm(copy.deepcopy(norm))
    for step in range(3):
        own = (x + step).chunk(world_size())[rank()].clone().requires_grad_()
        y = norm(own)
    own_grad, *grads = torch.autograd.grad(y.sin().sum(), [own, *norm.parameters()])
    # A loss that is a sum over ranks' rows, not their mean: its gradient is the ranks' sum.
    return y.detach(), [own_grad, *map(sum_over_ranks, grads)], norm.state_dict(), norm.eval()(own).detach()


@pytest.mark.parametrize(
    ("norm", "x"),
    [
        pytest.param(nn.BatchNorm1d(5), _rows(2, 8, 5), id="1d"),
        pytest.param(nn.BatchNorm2d(5), 100 + _rows(3, 8, 5, 3, 2), id="2d"),
        pytest.param(nn.BatchNorm2d(5, affine=False), _rows(4, 8, 5, 3, 2), id="plain"),
    ],
)
def test_gathered_batchnorm_is_torchs_on_the_whole_batch(norm: nn.Module, x: Tensor) -> None:
    y, (grad, *grads), state, evaluated = _trained_norm(norm.double(), x)
    for number, result in enumerate(run_ranks(_trained_norm, norm, x)):
        torch.testing.assert_close(result[0], y.chunk(2)[number])
        torch.testing.assert_close(result[1], [grad.chunk(2)[number], *grads])
        torch.testing.assert_close(result[2], state)
        torch.testing.assert_close(result[3], evaluated.chunk(2)[number])


def test_gathered_batchnorm_keeps_the_dtype_and_computes_wider() -> None:
    x = _rows(5, 64, 3)
    wide = GatheredBatchNorm(nn.BatchNorm1d(3))(x.bfloat16().float())
    narrow = GatheredBatchNorm(nn.BatchNorm1d(3))(x.bfloat16())
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow, wide.bfloat16())


class _ActivatedNorm(nn.BatchNorm2d):
    """Stands for those of timm that do more than normalise."""


@pytest.mark.parametrize("norm", [_ActivatedNorm(3), nn.BatchNorm1d(3, momentum=None)])
def test_batchnorm_of_another_kind_is_refused_by_name(norm: nn.modules.batchnorm._BatchNorm) -> None:
    with pytest.raises(InvalidInput, match=rf"{type(norm).__name__} cannot take its statistics from several ranks"):
        GatheredBatchNorm(norm)
