"""InfoNCE against the tabulated value, a brute-force twin, closed forms and autocast; ranks are in test_ssl_parity."""

import math

import pytest
import torch
from reference import first_view, second_view
from torch import Tensor

from viewfold.ssl.losses import info_nce_loss

X, Y = first_view(6, 9), second_view(6, 9)


def _one_pair_at_a_time(a: Tensor, b: Tensor, tau: float) -> float:
    """From the definition, with the cosine of every pair of rows on its own."""
    rows = [row / row.norm() for row in (*a, *b)]
    total = 0.0
    for i, anchor in enumerate(rows):
        weight = [math.exp(float(anchor @ row) / tau) for row in rows]
        total -= math.log(weight[(i + len(a)) % len(rows)] / (sum(weight) - weight[i]))
    return total / len(rows)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_loss_has_the_tabulated_value(dtype: torch.dtype, tolerance: float) -> None:
    assert info_nce_loss(X.to(dtype), Y.to(dtype)).item() == pytest.approx(0.3688738721, rel=tolerance)


@pytest.mark.parametrize("tau", [1.0, 0.1])
def test_loss_is_that_of_its_definition(tau: float) -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = torch.randn(2, 5, 4, dtype=torch.float64, generator=generator)
    assert info_nce_loss(a, b, tau=tau).item() == pytest.approx(_one_pair_at_a_time(a, b, tau), rel=1e-12)


def test_square_has_closed_forms() -> None:
    axes = torch.eye(2, dtype=torch.float64)
    assert info_nce_loss(axes, axes, tau=0.5).item() == pytest.approx(math.log(1 + 2 * math.exp(-2)), rel=1e-12)
    collapsed = torch.ones(4, 3, dtype=torch.float64)
    assert info_nce_loss(collapsed, collapsed).item() == pytest.approx(math.log(7), rel=1e-12)
    assert info_nce_loss(axes[:1], axes[1:]).item() == 0  # a pair alone has nothing to be mistaken for


def test_length_and_order_of_rows_and_views_do_not_matter() -> None:
    expected = info_nce_loss(X, Y)
    length = torch.linspace(0.5, 3, 6, dtype=torch.float64)[:, None]
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(info_nce_loss(Y[order], length * X[order]), expected)


def test_gradient_is_that_of_finite_differences() -> None:
    x, y = X.clone().requires_grad_(), Y.clone().requires_grad_()
    assert torch.autograd.gradcheck(info_nce_loss, (x, y))


def test_loss_of_bfloat16_rows_is_computed_in_float32() -> None:
    x, y = X.bfloat16(), Y.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = info_nce_loss(x, y)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, info_nce_loss(x.float(), y.float()))
