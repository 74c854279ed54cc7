"""Cross-entropy over labelled rows."""

import math

import pytest
import torch

from viewfold.ssl.losses import classification_loss


def test_uniform_logits_cost_the_log_of_the_number_of_labels() -> None:
    assert classification_loss(torch.zeros(4, 5), torch.tensor([0, 1, 2, 4])).item() == pytest.approx(math.log(5))


def test_unlabelled_rows_take_no_part() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    loss = classification_loss(logits, torch.tensor([2, -1, 0, -1]))
    (grad,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss, classification_loss(logits[[0, 2]], torch.tensor([2, 0])))
    assert grad[[1, 3]].abs().max() == 0
    assert classification_loss(logits, torch.full((4,), -1)).item() == 0


def test_bfloat16_logits_are_widened() -> None:
    logits, label = torch.randn(6, 3).bfloat16(), torch.tensor([0, 1, 2, 0, 1, 2])
    loss = classification_loss(logits, label)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits.float(), label))
