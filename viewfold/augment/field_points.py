"""Where a field warp takes single points: its map at arbitrary points, and the inverse, which is how content moves."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.augment.field_warp import FieldWarp
from viewfold.augment.fields import FieldConfig
from viewfold.augment.frame import Frame
from viewfold.augment.geometry import compose, nearest_affine

_STEP = 0.1
"""Longest step of the search, in longer sides: beyond it a map is not near its tangent."""
_ROUNDS = 15
"""Where a warp does not nearly fold, 3 to 5 rounds are enough."""
_TOLERANCE = 1e-6
"""Of the search, in longer sides: 0.001 pixels of a side of 1000."""
_NUDGE = 1e-6
"""Step of the difference quotients, in longer sides; all is computed in double precision."""


def smooth_values_at(
    draws: Float[Tensor, "batch draw"], points: Float[Tensor, "batch 2 point"], config: FieldConfig
) -> Float[Tensor, "batch field point"]:
    """`smooth_values` at any points (x, y), in longer sides from the image's corner: the sum of waves itself."""
    parts = draws.reshape(len(draws), -1, 1 + 2 * len(config.modes))
    waves_yx = config.modes.to(points)
    angles = 2 * math.pi / config.torus * torch.matmul(waves_yx.flip(1), points)
    values: Tensor = parts[:, :, :1] + torch.matmul(parts[:, :, 1:], torch.cat([angles.cos(), angles.sin()], dim=1))
    return values


def pull_back_at(
    family: FieldWarp, points: Float[Tensor, "batch 2 point"], draws: Float[Tensor, "batch draw"], frame: Frame
) -> Float[Tensor, "batch 2 point"]:
    """Where in the stored image the warp reads any points of the view, both in the frame's coordinates."""
    width, height = frame.extent
    corner = points.new_tensor([[width / 2], [height / 2]])
    return family.undo(points, smooth_values_at(draws, points + corner, family.config.field), frame)


def push_forward(
    family: FieldWarp, places: Float[Tensor, "batch 2 point"], draws: Float[Tensor, "batch draw"], frame: Frame
) -> Float[Tensor, "batch 2 point"]:
    """Where in the view the content at `places` of the stored image is: the points p with u(p) = place, float64.

    Newton's method with bounded steps, from the inverse of the nearest affine map. Where a warp folds, content is at
    several points and the result is one of them; it is NaN where none was found, and for places that are not finite.
    """
    affine = nearest_affine(compose([family], [draws], frame), frame).double()
    draws, places = draws.double(), places.double()
    points = torch.linalg.solve(affine[:, :, :2], places - affine[:, :, 2:])
    nudges = points.new_tensor([[0, _NUDGE, 0], [0, 0, _NUDGE]])
    for _ in range(_ROUNDS):
        around = (points[:, :, None] + nudges[:, :, None]).flatten(2)
        here, along_x, along_y = pull_back_at(family, around, draws, frame).chunk(3, dim=2)
        missing = places - here
        found = missing.norm(dim=1, keepdim=True) <= _TOLERANCE
        if bool((found[:, 0] | ~places.isfinite().all(1)).all()):
            break
        step = _solve((along_x - here) / _NUDGE, (along_y - here) / _NUDGE, missing)
        points = points + step * (_STEP / step.norm(dim=1, keepdim=True)).clamp(max=1)
    return torch.where(found, points, torch.nan)


def _solve(
    first: Float[Tensor, "batch 2 point"], second: Float[Tensor, "batch 2 point"], right: Float[Tensor, "batch 2 point"]
) -> Float[Tensor, "batch 2 point"]:
    """The (x, y) with x first + y second = right."""
    determinant = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    x = (right[:, 0] * second[:, 1] - right[:, 1] * second[:, 0]) / determinant
    y = (first[:, 0] * right[:, 1] - first[:, 1] * right[:, 0]) / determinant
    return torch.stack([x, y], dim=1)
