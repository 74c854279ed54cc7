"""Rotations as quaternions (x, y, z, w).

The relative rotation keeps its sign as computed: folding w to 0 or more would put jumps into what a predictor must
follow. Written out rather than taken from SciPy, whose inverse changed sign in 1.11.
"""

import torch
from jaxtyping import Float
from torch import Tensor


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
