"""Quaternions against tabulated values and rotation matrices; relations against their definition."""

import math

import pytest
import torch
from torch import Tensor

from viewfold.errors import InvalidInput
from viewfold.ssl.geometry import RELATIONS, conjugate, quaternion_from_angles, quaternion_product, relative_rotation

LATENTS = tuple(f"latent_{i}" for i in range(7))


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


def test_relations_of_recorded_poses() -> None:
    params = torch.rand(2, 4, 7)
    first, second = params
    rotation = relative_rotation(first[:, :3], second[:, :3])
    torch.testing.assert_close(RELATIONS["rotation"](params, LATENTS), rotation)
    with_colour = RELATIONS["rotation+colour"](params, LATENTS)
    torch.testing.assert_close(with_colour[:, :4], rotation)
    torch.testing.assert_close(with_colour[:, 4:], second[:, [3, 6]] - first[:, [3, 6]])


def test_columns_are_found_by_name() -> None:
    params = torch.rand(2, 4, 8)
    names = ("rotation_rad", *LATENTS)
    moved = RELATIONS["rotation"](params[..., 1:], LATENTS)
    torch.testing.assert_close(RELATIONS["rotation"](params, names), moved)


@pytest.mark.parametrize(("name", "num_outputs"), [("rotation", 4), ("rotation+colour", 6), ("difference", 7)])
def test_relations_tell_their_width(name: str, num_outputs: int) -> None:
    assert RELATIONS[name].num_outputs(LATENTS) == num_outputs
    assert RELATIONS[name](torch.rand(2, 3, 7), LATENTS).shape == (3, num_outputs)


def test_difference_is_second_minus_first() -> None:
    params = torch.rand(2, 3, 2)
    torch.testing.assert_close(RELATIONS["difference"](params, ("a", "b")), params[1] - params[0])


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("rotation", ("rotation_rad", "shear_rad"), "record rotation_rad, shear_rad and .* needs latent_0, latent_1"),
        ("difference", (), "record no parameters and .* choose another of: difference, rotation"),
    ],
)
def test_missing_columns_are_named(name: str, columns: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        RELATIONS[name].num_outputs(columns)
