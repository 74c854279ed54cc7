"""Quaternions against tabulated values and rotation matrices."""

import math

import pytest
import torch
from torch import Tensor

from viewfold.ssl.geometry import (
    angles_from_quaternion,
    conjugate,
    matrix_from_quaternion,
    quaternion_from_angles,
    quaternion_product,
    relative_rotation,
)


def _angles(number: int) -> Tensor:
    return torch.tensor([math.pi / 2 * math.sin(1 + 1.7 * number + 2.3 * k) for k in range(3)], dtype=torch.float64)


def _matrix(angles: Tensor) -> Tensor:
    """Rz Ry Rx."""
    (sx, sy, sz), (cx, cy, cz) = angles.sin().tolist(), angles.cos().tolist()
    rx = torch.tensor([[1, 0, 0], [0, cx, -sx], [0, sx, cx]], dtype=torch.float64)
    ry = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]], dtype=torch.float64)
    rz = torch.tensor([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]], dtype=torch.float64)
    return rz @ ry @ rx


def _rotated(q: Tensor, vector: Tensor) -> Tensor:
    pure = torch.cat([vector, vector.new_zeros(1)])
    return quaternion_product(quaternion_product(q, pure), conjugate(q))[:3]


@pytest.mark.parametrize(
    ("angles", "expected"),
    [
        # These two were tabulated from angles rounded to float32.
        (_angles(0).float().double(), (0.489360445, -0.375585312, -0.305965820, 0.725153049)),
        (_angles(1).float().double(), (0.588629403, -0.358151959, 0.603508710, 0.401272770)),
        (torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64), (0.034270799, 0.106020511, 0.143572175, 0.983347443)),
    ],
)
def test_pose_has_the_tabulated_quaternion(angles: Tensor, expected: tuple[float, ...]) -> None:
    assert quaternion_from_angles(angles).tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (0, 1, (0.566730631, 0.366430926, 0.514596779, 0.528899728)),
        (1, 0, (-0.566730631, -0.366430926, -0.514596779, 0.528899728)),
        (2, 5, (0.447279491, -0.783764654, -0.190886910, 0.386285143)),
        (3, 3, (0.0, 0.0, 0.0, 1.0)),
    ],
)
def test_relative_rotation_has_the_tabulated_value(first: int, second: int, expected: tuple[float, ...]) -> None:
    assert relative_rotation(_angles(first), _angles(second)).tolist() == pytest.approx(expected, abs=1e-9)


def test_relative_rotation_is_the_product_of_the_matrices() -> None:
    relative = _matrix(_angles(4)).T @ _matrix(_angles(7))
    z = relative_rotation(_angles(4), _angles(7))
    for axis in torch.eye(3, dtype=torch.float64):
        torch.testing.assert_close(_rotated(z, axis), relative @ axis)


def test_second_pose_is_the_first_times_the_relative_rotation() -> None:
    a, b = (torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in (0, 1))
    rebuilt = quaternion_product(quaternion_from_angles(a), relative_rotation(a, b))
    torch.testing.assert_close(rebuilt, quaternion_from_angles(b))


def test_euler_angles_of_the_relative_rotation_are_the_tabulated_ones() -> None:
    z = relative_rotation(_angles(0).float(), _angles(1).float())
    assert angles_from_quaternion(z).tolist() == pytest.approx((1.4798255, -0.1969356, 1.3634995), abs=1e-5)


def _random_angles(num: int) -> Tensor:
    """In the ranges that `angles_from_quaternion` promises."""
    ends = torch.tensor([math.pi, math.pi / 2, math.pi], dtype=torch.float64)
    return (2 * torch.rand(num, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1) * ends


def test_angles_survive_the_quaternion_of_either_sign() -> None:
    angles = _random_angles(50)
    q = quaternion_from_angles(angles)
    torch.testing.assert_close(angles_from_quaternion(q), angles)
    torch.testing.assert_close(angles_from_quaternion(-q), angles)


def test_matrix_of_the_relative_rotation_is_the_transposed_first_times_the_second() -> None:
    for first, second in _random_angles(20).view(10, 2, 3):
        matrix = matrix_from_quaternion(relative_rotation(first, second))
        torch.testing.assert_close(matrix, _matrix(first).T @ _matrix(second))


@pytest.mark.parametrize("to_pole", [0.0, 1e-8, 1e-4, 1e-2])
@pytest.mark.parametrize("end", [-1, 1])
def test_angles_at_the_pole_denote_the_rotation_to_the_last_digits(to_pole: float, end: int) -> None:
    b = end * (math.pi / 2 - to_pole)
    q = quaternion_from_angles(torch.tensor([0.7, b, -1.9], dtype=torch.float64)).float()
    angles = angles_from_quaternion(q)
    assert angles[1].item() == pytest.approx(b, abs=3e-7)  # an arcsine would be off by 3e-4
    rebuilt = matrix_from_quaternion(quaternion_from_angles(angles))
    torch.testing.assert_close(rebuilt, matrix_from_quaternion(q), atol=1e-6, rtol=0)
