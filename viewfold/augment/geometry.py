"""What the geometric families of a view amount to: one map of points, its nearest affine map, and where it folds."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from viewfold.augment.frame import Frame
from viewfold.augment.transform import Geometric


def common_frame(families: Sequence[Geometric], height: int, width: int) -> Frame:
    """The nodes that these families need."""
    affine = all(family.is_affine for family in families)
    return Frame.corners(height, width) if affine else Frame.coarse(height, width)


def compose(
    families: Sequence[Geometric], draws: Sequence[Float[Tensor, "batch _"]], frame: Frame
) -> Float[Tensor, "batch 2 rows columns"]:
    """Where in the stored image each node of the view is read, after all families in their order."""
    places = frame.points(draws[0].device).expand(len(draws[0]), -1, -1, -1)
    for family, drawn in zip(reversed(families), reversed(draws), strict=True):
        places = family.pull_back(places, drawn, frame)
    return places


def nearest_affine(places: Float[Tensor, "batch 2 rows columns"], frame: Frame) -> Float[Tensor, "batch 2 3"]:
    """The affine map (x, y, 1) -> places with the least mean square distance over the nodes; exact for affine maps."""
    nodes = frame.points(places.device, torch.float64)
    # The nodes' x, y and 1 are orthogonal over the lattice, so each coefficient is a projection of its own.
    basis = torch.stack([*nodes, torch.ones_like(nodes[0])]).flatten(1)
    return torch.matmul(places.double().flatten(2), (basis / basis.square().sum(1, keepdim=True)).T).float()


def fold_fraction(places: Float[Tensor, "batch 2 rows columns"], frame: Frame) -> Float[Tensor, " batch"]:
    """Share of the cells between nodes, 0..1, that the map turns over against the whole: image structure is lost there.

    A mirrored view as a whole is not folded.
    """
    along_x, along_y = places.diff(dim=3)[:, :, :-1], places.diff(dim=2)[:, :, :, :-1]
    turn = along_x[:, 0] * along_y[:, 1] - along_x[:, 1] * along_y[:, 0]
    mirrored: Bool[Tensor, " batch"] = torch.linalg.det(nearest_affine(places, frame)[:, :, :2]) < 0
    return ((turn <= 0) != mirrored[:, None, None]).float().mean((1, 2))
