"""Rotations as quaternions (x, y, z, w), and the relations that turn two views' parameters into one transformation.

The relative rotation keeps its sign as computed: folding w to 0 or more would put jumps into what a predictor must
follow. Written out rather than taken from SciPy, whose inverse changed sign in 1.11.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.errors import InvalidInput

ANGLES = ("latent_0", "latent_1", "latent_2")
"""Columns of recorded parameters that hold a pose, angles about x, y, z in radians: R = Rz Ry Rx."""
HUES = ("latent_3", "latent_6")
"""Columns of recorded parameters that hold the hues of floor and light, each 0..1, in 3DIEBench's order."""


def quaternion_from_angles(angles: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 4"]:
    """Unit quaternion of Euler angles about the fixed axes x, y, z, in that order, in radians."""
    s1, s2, s3 = (angles / 2).sin().unbind(-1)
    c1, c2, c3 = (angles / 2).cos().unbind(-1)
    x = s1 * c2 * c3 - c1 * s2 * s3
    y = c1 * s2 * c3 + s1 * c2 * s3
    z = c1 * c2 * s3 - s1 * s2 * c3
    w = c1 * c2 * c3 + s1 * s2 * s3
    return torch.stack([x, y, z, w], dim=-1)


def conjugate(q: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    """The inverse rotation of a unit quaternion: the vector part changes sign, w does not."""
    return torch.cat([-q[..., :3], q[..., 3:]], dim=-1)


def quaternion_product(p: Float[Tensor, "*batch 4"], q: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    """Hamilton product: the rotation `q`, then the rotation `p`."""
    pv, pw, qv, qw = p[..., :3], p[..., 3:], q[..., :3], q[..., 3:]
    vector = pw * qv + qw * pv + torch.linalg.cross(pv, qv)
    return torch.cat([vector, pw * qw - (pv * qv).sum(-1, keepdim=True)], dim=-1)


def relative_rotation(
    angles_a: Float[Tensor, "*batch 3"], angles_b: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 4"]:
    """The z for which q_b = q_a z, from the Euler angles (radians) of two poses: conj(q_a) q_b."""
    return quaternion_product(conjugate(quaternion_from_angles(angles_a)), quaternion_from_angles(angles_b))


@dataclass(frozen=True)
class Relation:
    """How the parameters of two views become the transformation between them."""

    reads: Callable[[Sequence[str]], tuple[str, ...]]
    """The columns it needs, given the columns there are."""
    relate: Callable[[Tensor, Tensor], Tensor]
    """`[batch, column]` of each view, in the order of `reads`, to `[batch, k]`."""

    def num_outputs(self, names: Sequence[str]) -> int:
        """k, for parameters with these column names.

        Raises:
            InvalidInput: a column is missing.
        """
        no_rows = torch.empty(2, 0, len(names))
        return self(no_rows, names).shape[1]

    def __call__(self, params: Float[Tensor, "2 batch param"], names: Sequence[str]) -> Float[Tensor, "batch k"]:
        """The transformation from the first view to the second.

        Raises:
            InvalidInput: a column is missing.
        """
        wanted = self.reads(names)
        missing = [name for name in wanted if name not in names]
        if missing or not wanted:
            raise InvalidInput(
                f"the views record {', '.join(names) or 'no parameters'} and this transformation needs "
                f"{', '.join(missing) or 'some'}; choose another of: {', '.join(RELATIONS)}, or data that records it"
            )
        first, second = params[..., [names.index(name) for name in wanted]]
        return self.relate(first, second)


def _rotation_and_colour(a: Tensor, b: Tensor) -> Tensor:
    """Hue is circular and its difference here is not, as in 3DIEBench: between -1 and 1."""
    return torch.cat([relative_rotation(a[:, :3], b[:, :3]), b[:, 3:] - a[:, 3:]], dim=1)


RELATIONS: dict[str, Relation] = {
    "difference": Relation(reads=tuple, relate=lambda a, b: b - a),
    "rotation": Relation(reads=lambda names: ANGLES, relate=relative_rotation),
    "rotation+colour": Relation(reads=lambda names: ANGLES + HUES, relate=_rotation_and_colour),
}
"""`rotation`: relative quaternion (4) of recorded poses; `rotation+colour`: and the differences of two hues (6);
`difference`: second view's parameters minus the first's, for drawn ones (as many as there are columns)."""
