"""Relations against their definition: what each reads of the views, how wide it is, what it refuses."""

from dataclasses import replace

import pytest
import torch

from viewfold.errors import InvalidInput
from viewfold.ssl.geometry import (
    angles_from_quaternion,
    matrix_from_quaternion,
    quaternion_from_angles,
    quaternion_product,
    relative_rotation,
)
from viewfold.ssl.methods import Task
from viewfold.ssl.methods.relations import RELATIONS, Recorded
from viewfold.values import Views

LATENTS = tuple(f"latent_{i}" for i in range(7))
DRAWN = ("rotation_rad", "log_scale_x")
TASK = Task(LATENTS + DRAWN, 0, relative_names=DRAWN)


def _views() -> Views:
    """Pairs of objects with latents, changed by what was drawn as well."""
    unknown = torch.full((4,), -1)
    return Views(
        images=torch.rand(2, 4, 3, 8, 8),
        params=torch.rand(2, 4, 9),
        names=LATENTS + DRAWN,
        label=unknown,
        domain=unknown,
        group=unknown,
        relative=torch.rand(4, 2),
        relative_names=DRAWN,
    )


def test_relations_of_recorded_poses() -> None:
    views = _views()
    assert views.params is not None
    first, second = views.params
    rotation = relative_rotation(first[:, :3], second[:, :3])
    torch.testing.assert_close(RELATIONS["rotation"](views), rotation)
    with_colour = RELATIONS["rotation+colour"](views)
    torch.testing.assert_close(with_colour[:, :4], rotation)
    torch.testing.assert_close(with_colour[:, 4:], second[:, [3, 6]] - first[:, [3, 6]])
    assert torch.equal(RELATIONS["colour"](views), with_colour[:, 4:])
    torch.testing.assert_close(RELATIONS["euler"](views), angles_from_quaternion(rotation))
    matrices = [matrix_from_quaternion(quaternion_from_angles(poses[:, :3])) for poses in (first, second)]
    torch.testing.assert_close(RELATIONS["rotation-matrix"](views), (matrices[0].mT @ matrices[1]).flatten(1))


def test_columns_are_found_by_name() -> None:
    views = _views()
    assert views.params is not None
    turned = replace(views, params=views.params.flip(2), names=views.names[::-1])
    for name in ("rotation", "rotation+colour", "colour", "euler", "rotation-matrix", "rotation-squared"):
        torch.testing.assert_close(RELATIONS[name](turned), RELATIONS[name](views))


def test_the_square_tells_the_whole_angle_about_the_axis_and_no_sign_of_the_quaternion() -> None:
    turns = torch.tensor([[0.0, 0.0, 0.4], [0.0, 0.0, -1.5]])
    z = RELATIONS["rotation-squared"](
        replace(_views(), params=torch.stack([torch.zeros(2, 3), turns]), names=LATENTS[:3])
    )
    torch.testing.assert_close(z[:, 2:], torch.stack([turns[:, 2].sin(), turns[:, 2].cos()], dim=1))
    assert z[:, :2].abs().max() < 1e-6
    q = relative_rotation(torch.rand(5, 3), torch.rand(5, 3))
    torch.testing.assert_close(quaternion_product(-q, -q), quaternion_product(q, q))


RECORDED = {name: relation for name, relation in RELATIONS.items() if isinstance(relation, Recorded)}


@pytest.mark.parametrize("name", RECORDED)
def test_rows_of_a_table_are_related_like_views(name: str) -> None:
    views = _views()
    assert views.params is not None
    first, second = views.params
    assert torch.equal(RECORDED[name].between(first, second, views.names), RECORDED[name](views))


def test_difference_is_second_minus_first_of_the_latents_alone() -> None:
    views = _views()
    assert views.params is not None
    first, second = views.params[..., :7]
    torch.testing.assert_close(RELATIONS["difference"](views), second - first)


def test_what_was_drawn_is_handed_on_as_it_was_told() -> None:
    views = _views()
    assert views.relative is not None
    assert torch.equal(RELATIONS["drawn"](views), views.relative)


@pytest.mark.parametrize(
    ("name", "num_outputs"),
    [
        ("colour", 2),
        ("difference", 7),
        ("drawn", 2),
        ("euler", 3),
        ("rotation", 4),
        ("rotation+colour", 6),
        ("rotation-matrix", 9),
        ("rotation-squared", 4),
    ],
)
def test_relations_tell_their_width(name: str, num_outputs: int) -> None:
    assert RELATIONS[name].num_outputs(TASK) == num_outputs
    assert RELATIONS[name](_views()).shape == (4, num_outputs)


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("rotation", ("rotation_rad", "shear_rad"), "record rotation_rad, shear_rad and .* needs latent_0, latent_1"),
        ("rotation+colour", LATENTS[:3], "needs latent_3, latent_6"),
        ("difference", (), "record no parameters and .* needs latents; choose another of: colour, difference, drawn"),
        ("difference", DRAWN, "record rotation_rad, log_scale_x and .* needs latents; choose another of: .*drawn"),
        ("drawn", LATENTS, r"nothing is drawn .* set policy\.name to one that draws, such as affine"),
    ],
)
def test_what_is_missing_is_named(name: str, columns: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        RELATIONS[name].num_outputs(Task(columns, 0))
    views = replace(_views(), params=torch.rand(2, 4, len(columns)) if columns else None, names=columns, relative=None)
    with pytest.raises(InvalidInput, match=message):
        RELATIONS[name](views)
