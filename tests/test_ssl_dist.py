"""Collectives over ranks, against one process that has all the rows."""

import pytest
import torch
from ranks import run_ranks
from torch import Tensor

from viewfold.ssl.dist import gather_rows, gather_values, mean_of_valid, rank, sum_over_ranks, world_size


def _rows(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_one_rank_is_the_identity() -> None:
    x = _rows(0, 3, 2)
    assert (rank(), world_size()) == (0, 1)
    assert sum_over_ranks(x) is x
    assert gather_rows(x) is x


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
