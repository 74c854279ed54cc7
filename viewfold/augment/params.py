"""What was done to a view as a short vector of named numbers, and what takes one view to another: labels to learn from.

Geometry is told as the content's affine transformation from the stored image to the view: for maps that are not affine,
the nearest one in least squares. Its matrix is mirrored-or-not first, then A = R(rotation) diag(e^sx, e^sy) Sh(shear),
then the shift, about the image's centre; positive rotations are clockwise as displayed.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.augment.frame import Frame

GEOMETRY = (
    "rotation_rad",
    "log_scale_x",
    "log_scale_y",
    "shear_rad",
    "translate_x_ratio",
    "translate_y_ratio",
    "mirrored",
)
"""Columns that describe any geometry; shifts are parts of the image's width and height, `mirrored` is 0 or 1."""
_TURN = ("rotation_sin", "rotation_cos_less_1")
"""What a relative rotation is told by: its angle would jump at half a turn. Both are 0 for none."""


def geometry_columns(places: Float[Tensor, "batch 2 3"], frame: Frame) -> Float[Tensor, "batch 7"]:
    """The columns `GEOMETRY` of the affine maps that say where each point of a view is read in the stored image."""
    return _columns(torch.linalg.inv(_square(places.double())), frame).float()


def relative_geometry(
    first: Float[Tensor, "batch 7"], second: Float[Tensor, "batch 7"], frame: Frame
) -> Float[Tensor, "batch 7"]:
    """The columns `GEOMETRY` of what takes the content of the first view to where it is in the second: A2 A1^-1."""
    return _columns(_matrix(second, frame) @ torch.linalg.inv(_matrix(first, frame)), frame).float()


def relative_params(
    first: Float[Tensor, "batch param"], second: Float[Tensor, "batch param"], names: Sequence[str], frame: Frame
) -> Float[Tensor, "batch relative"]:
    """What takes the first view to the second: the columns `relative_names`, geometry composed, all others subtracted.

    All are 0 where the two views are the same.
    """
    geometric = len(GEOMETRY) if _has_geometry(names) else 0
    others = second[:, geometric:] - first[:, geometric:]
    if not geometric:
        return others
    rotation, rest = relative_geometry(first[:, :geometric], second[:, :geometric], frame).tensor_split([1], dim=1)
    return torch.cat([rotation.sin(), rotation.cos() - 1, rest, others], dim=1)


def relative_names(names: Sequence[str]) -> tuple[str, ...]:
    """Name and unit of each column of `relative_params`, for parameters of these names."""
    return (*_TURN, *names[1:]) if _has_geometry(names) else tuple(names)


def _has_geometry(names: Sequence[str]) -> bool:
    return tuple(names[: len(GEOMETRY)]) == GEOMETRY


def _columns(content: Float[Tensor, "batch 3 3"], frame: Frame) -> Float[Tensor, "batch 7"]:
    linear, shift = content[:, :2, :2], content[:, :2, 2]
    mirrored = torch.linalg.det(linear) < 0
    linear = torch.stack([torch.where(mirrored[:, None], -1, 1) * linear[:, :, 0], linear[:, :, 1]], dim=2)
    scale_x = torch.linalg.vector_norm(linear[:, :, 0], dim=1)
    cos, sin = (linear[:, :, 0] / scale_x[:, None]).unbind(1)
    across = cos * linear[:, 0, 1] + sin * linear[:, 1, 1]
    width, height = frame.extent
    columns = [
        torch.atan2(sin, cos),
        scale_x.log(),
        (torch.linalg.det(linear) / scale_x).log(),
        torch.atan(-across / scale_x),
        shift[:, 0] / width,
        shift[:, 1] / height,
        mirrored.to(linear),
    ]
    return torch.stack(columns, dim=1)


def _matrix(columns: Float[Tensor, "batch 7"], frame: Frame) -> Float[Tensor, "batch 3 3"]:
    """The inverse of `_columns`, in double precision."""
    rotation, scale_x, scale_y, shear, shift_x, shift_y, mirrored = columns.double().unbind(1)
    cos, sin, sx, sy = rotation.cos(), rotation.sin(), scale_x.exp(), scale_y.exp()
    lean = -shear.tan() * sx
    width, height = frame.extent
    sign = 1 - 2 * mirrored
    rows = [
        torch.stack([cos * sx * sign, cos * lean - sin * sy, shift_x * width], dim=1),
        torch.stack([sin * sx * sign, sin * lean + cos * sy, shift_y * height], dim=1),
    ]
    return _square(torch.stack(rows, dim=1))


def _square(affine: Float[Tensor, "batch 2 3"]) -> Float[Tensor, "batch 3 3"]:
    last = affine.new_tensor([0, 0, 1]).expand(len(affine), 1, 3)
    return torch.cat([affine, last], dim=1)
