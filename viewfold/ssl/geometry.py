"""Rotations as quaternions (x, y, z, w), and what else they can be written as.

The relative rotation keeps its sign as computed: folding w to 0 or more would put jumps into what a predictor must
follow. Written out rather than taken from SciPy, whose inverse changed sign in 1.11.
"""

import math

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


def angles_from_quaternion(q: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3"]:
    """Euler angles about the fixed axes x, y, z, in that order, in radians, of unit quaternions of either sign.

    The first and the third are in -pi..pi, the second in -pi/2..pi/2. They denote the rotation to the last digits
    everywhere; where the second angle reaches its end (the pole) only the sum or the difference of the others counts.
    """
    x, y, z, w = q.unbind(-1)
    # With angles a, b, c: w + y and x - z are the cosine and sine of (a - c) / 2, times sqrt(1 + sin b), and w - y and
    # x + z those of (a + c) / 2, times sqrt(1 - sin b). An arcsine of sin b would lose half the digits at the pole.
    half_difference, half_sum = torch.atan2(x - z, w + y), torch.atan2(x + z, w - y)
    a, c = half_sum + half_difference, half_sum - half_difference
    b = 2 * torch.atan2(torch.hypot(w + y, x - z), torch.hypot(w - y, x + z)) - math.pi / 2
    turn = 2 * math.pi
    return torch.stack([a - turn * (a / turn).round(), b, c - turn * (c / turn).round()], dim=-1)


def matrix_from_quaternion(q: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation matrix of unit quaternions; it turns column vectors, and q and -q have the same."""
    x, y, z, w = q.unbind(-1)
    rows = (
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], dim=-1),
        torch.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], dim=-1),
        torch.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], dim=-1),
    )
    return torch.stack(rows, dim=-2)
