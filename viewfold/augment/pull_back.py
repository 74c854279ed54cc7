"""Inverse linear maps of points, with parameters that are numbers or functions of the point."""

import torch
from torch import Tensor


def undo_shear(
    x: Tensor, y: Tensor, rotation: Tensor, log_scale_x: Tensor, log_scale_y: Tensor, shear: Tensor
) -> Tensor:
    """Where A = R(rotation) diag(e^sx, e^sy) Sh(shear) takes (x, y) from: Sh^-1 diag(e^-sx, e^-sy) R^T (x, y).

    Angles in radians; R = [[cos, -sin], [sin, cos]] with y down, so clockwise as displayed; Sh: x' = x - tan(shear) y.
    The result has x and y along axis 1.
    """
    x, y = _turn_back(x, y, rotation)
    x, y = x * torch.exp(-log_scale_x), y * torch.exp(-log_scale_y)
    return torch.stack([x + shear.tan() * y, y], dim=1)


def undo_polar(
    x: Tensor, y: Tensor, rotation: Tensor, log_scale: Tensor, stretch_0: Tensor, stretch_1: Tensor
) -> Tensor:
    """Where A = exp(X) R(rotation) takes (x, y) from, with X = [[a + b, c], [c, a - b]]; determinants are positive.

    a is `log_scale`, half the logarithm of the area; (b, c) are `stretch_0` and `stretch_1`, and r = |(b, c)| is half
    the logarithm of the aspect: exp X = e^a (cosh r + sinh(r) / r [[b, c], [c, -b]]).
    """
    radius = torch.hypot(stretch_0, stretch_1)
    even, odd = radius.cosh(), torch.where(radius > 1e-4, radius.sinh() / radius.clamp(min=1e-4), 1.0)
    back = torch.exp(-log_scale)
    across = back * (even * x - odd * (stretch_0 * x + stretch_1 * y))
    down = back * (even * y - odd * (stretch_1 * x - stretch_0 * y))
    return torch.stack(_turn_back(across, down, rotation), dim=1)


def _turn_back(x: Tensor, y: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = rotation.cos(), rotation.sin()
    return cos * x + sin * y, cos * y - sin * x
