"""The prediction error of SIE against its tabulated value."""

import pytest
import torch
from reference import first_view, hypernetwork_weight, second_view, transformations

from viewfold.ssl.losses import equivariance_loss

TARGET = second_view(6, 9)[:, 5:]
PREDICTION = torch.einsum("ijk,bj,bk->bi", hypernetwork_weight(4, 4), first_view(6, 9)[:, 5:], transformations(6))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_error_has_the_tabulated_value(dtype: torch.dtype, tolerance: float) -> None:
    assert equivariance_loss(PREDICTION.to(dtype), TARGET.to(dtype)).item() == pytest.approx(
        1.0275584005, rel=tolerance
    )


def test_error_of_bfloat16_rows_is_computed_in_float32() -> None:
    prediction, target = PREDICTION.bfloat16(), TARGET.bfloat16()
    loss = equivariance_loss(prediction, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, equivariance_loss(prediction.float(), target.float()))


def test_both_sides_get_opposite_gradients() -> None:
    prediction, target = PREDICTION.clone().requires_grad_(), TARGET.clone().requires_grad_()
    from_prediction, from_target = torch.autograd.grad(equivariance_loss(prediction, target), (prediction, target))
    torch.testing.assert_close(from_prediction, 2 * (PREDICTION - TARGET) / TARGET.numel())
    torch.testing.assert_close(from_target, -from_prediction)
