"""Losses are computed in float32 at least, whatever the network runs in."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

R = TypeVar("R")


def in_float32(loss: Callable[..., R]) -> Callable[..., R]:
    """`loss` with its floating-point tensors widened to at least float32 and autocast off inside.

    Squares and exponentials leave the range of float16 (above 65504) and lose all but three digits in bfloat16.
    """

    @wraps(loss)
    def wide_loss(first: Tensor, *args: Any, **kwargs: Any) -> R:
        with torch.autocast(first.device.type, enabled=False):
            return loss(*(_widened(arg) for arg in (first, *args)), **kwargs)

    return wide_loss


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(torch.promote_types(value.dtype, torch.float32))
    return value
