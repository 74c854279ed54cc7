"""VICReg's terms against tabulated values, closed forms and autocast."""

import pytest
import torch
from ranks import run_ranks
from reference import first_view, second_view
from torch import Tensor

from viewfold.ssl.dist import gather_rows, rank, world_size
from viewfold.ssl.losses import covariance_loss, invariance_loss, variance_hinge

X, Y = first_view(6, 9), second_view(6, 9)


def _total(x: Tensor, y: Tensor) -> Tensor:
    all_x, all_y = gather_rows(x), gather_rows(y)
    variance = (variance_hinge(all_x) + variance_hinge(all_y)) / 2
    return 10 * invariance_loss(x, y) + 10 * variance + covariance_loss(all_x) + covariance_loss(all_y)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_terms_have_the_tabulated_values(dtype: torch.dtype, tolerance: float) -> None:
    x, y = X.to(dtype), Y.to(dtype)
    assert invariance_loss(x, y).item() == pytest.approx(0.1804358628, rel=tolerance)
    assert ((variance_hinge(x) + variance_hinge(y)) / 2).item() == pytest.approx(0.2394951135, rel=tolerance)
    assert (covariance_loss(x) + covariance_loss(y)).item() == pytest.approx(2.3734113577, rel=tolerance)
    assert _total(x, y).item() == pytest.approx(6.5727211207, rel=tolerance)


def test_covariance_takes_another_denominator() -> None:
    scaled = covariance_loss(X, denominator=11) + covariance_loss(Y, denominator=11)
    assert scaled.item() == pytest.approx(0.4903742475, rel=1e-9)


def test_collapsed_and_whitened_rows_have_closed_forms() -> None:
    collapsed = torch.ones(8, 3).double()
    assert variance_hinge(collapsed).item() == pytest.approx(1 - 1e-4**0.5)
    assert covariance_loss(collapsed).item() == 0
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).double()
    assert variance_hinge(signs).item() == 0
    assert covariance_loss(signs).item() == 0
    assert covariance_loss(signs[:, [0, 0]]).item() == pytest.approx(2 * (4 / 3) ** 2 / 2)


def test_losses_of_bfloat16_rows_are_computed_in_float32() -> None:
    x, y = X.bfloat16(), Y.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = _total(x, y)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, _total(x.float(), y.float()))
    # The square of 300 is beyond float16, whose largest number is 65504.
    assert covariance_loss(torch.tensor([[300.0, 300.0], [-300.0, -300.0]]).half()).item() == pytest.approx(1.8e5**2)


def test_gradients_are_those_of_finite_differences() -> None:
    x, y = X.clone().requires_grad_(), Y.clone().requires_grad_()
    assert torch.autograd.gradcheck(_total, (x, y))


def _loss_and_grad(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    own_x = x.chunk(world_size())[rank()].clone().requires_grad_()
    loss = _total(own_x, y.chunk(world_size())[rank()])
    return loss.detach(), torch.autograd.grad(loss, own_x)[0] / world_size()


def test_two_ranks_equal_one() -> None:
    loss, grad = _loss_and_grad(X, Y)
    (loss_0, grad_0), (loss_1, grad_1) = run_ranks(_loss_and_grad, X, Y)
    torch.testing.assert_close((loss_0 + loss_1) / 2, loss)
    torch.testing.assert_close(torch.cat([grad_0, grad_1]), grad)
