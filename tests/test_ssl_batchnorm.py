"""BatchNorm over ranks and views, against torch's own on one process that has all the rows."""

import copy

import pytest
import torch
from ranks import run_ranks
from torch import Tensor, nn

from viewfold.errors import InvalidInput
from viewfold.ssl.batchnorm import GatheredBatchNorm, each_view, with_gathered_batchnorm
from viewfold.ssl.dist import rank, sum_over_ranks, world_size


def _rows(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_one_rank_keeps_torchs_batchnorm() -> None:
    norm = nn.BatchNorm1d(2)
    assert with_gathered_batchnorm(norm) is norm


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


def _network(kind: str) -> nn.Module:
    """Two layers with BatchNorm between them, drawn from a fixed seed."""
    torch.manual_seed(0)
    if kind == "rows":
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double()
    layers = [nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)]
    return nn.Sequential(*layers).double().to(memory_format=torch.channels_last)


def _views_through(kind: str, views: Tensor) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
    network = with_gathered_batchnorm(_network(kind))
    y = each_view(network, views.chunk(world_size(), dim=1)[rank()])
    grads = torch.autograd.grad((y.sin() * torch.arange(3)).sum(), list(network.parameters()))
    return y.detach(), [sum_over_ranks(grad) for grad in grads], network.state_dict()


@pytest.mark.parametrize(("kind", "shape"), [("rows", (4,)), ("images", (2, 4, 4))])
def test_views_that_pass_together_are_kept_apart(kind: str, shape: tuple[int, ...]) -> None:
    views = torch.stack([_rows(6, 8, *shape), 3 + 2 * _rows(7, 8, *shape)])
    # One process has torch's BatchNorm, which is given one view after the other.
    y, grads, state = _views_through(kind, views)
    for number, result in enumerate(run_ranks(_views_through, kind, views)):
        torch.testing.assert_close(result[0], y.chunk(2, dim=1)[number])
        torch.testing.assert_close(result[1], grads)
        torch.testing.assert_close(result[2], state)


def test_a_network_without_batchnorm_gives_the_same_for_views_together() -> None:
    network, views = nn.Linear(4, 3).double(), _rows(8, 2, 5, 4)
    torch.testing.assert_close(each_view(network, views), torch.stack([network(view) for view in views]))
