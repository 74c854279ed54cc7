"""Relations: what is known of two views, as the one transformation that a predictor follows.

It takes the first view to the second, and was either recorded with the stored images (a pose, say) or drawn when the
views were made.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.config import unknown
from viewfold.errors import InvalidInput
from viewfold.ssl.geometry import (
    angles_from_quaternion,
    matrix_from_quaternion,
    quaternion_product,
    relative_rotation,
)
from viewfold.ssl.methods.method import Task
from viewfold.values import Views

ANGLES = ("latent_0", "latent_1", "latent_2")
"""Columns of recorded parameters that hold a pose, angles about x, y, z in radians: R = Rz Ry Rx."""
HUES = ("latent_3", "latent_6")
"""Columns of recorded parameters that hold the hues of floor and light, each 0..1, in 3DIEBench's order."""


class Relation(ABC):
    """A transformation of k numbers, read from the views."""

    @abstractmethod
    def num_outputs(self, task: Task) -> int:
        """k, for such data.

        Raises:
            InvalidInput: its views lack what this relation reads.
        """

    @abstractmethod
    def __call__(self, views: Views) -> Float[Tensor, "batch k"]:
        """The transformation from the first view to the second.

        Raises:
            InvalidInput: the views lack what this relation reads.
        """


@dataclass(frozen=True)
class Recorded(Relation):
    """Between the recorded parameters of the two stored images."""

    reads: Callable[[Sequence[str]], Sequence[str]]
    """The columns it needs, given the columns there are."""
    relate: Callable[[Tensor, Tensor], Tensor]
    """`[batch, column]` of each view, in the order of `reads`, to `[batch, k]`."""

    def num_outputs(self, task: Task) -> int:
        if task.paired:
            raise InvalidInput(
                "mined pairs show two things, between which no transformation was recorded; choose a method or a "
                "transformation that reads none"
            )
        none = torch.empty(0, len(task.param_names))
        return self.between(none, none, task.param_names).shape[1]

    def __call__(self, views: Views) -> Float[Tensor, "batch k"]:
        columns = self._columns(views.names)
        assert views.params is not None  # there are as many columns as names
        first, second = views.params[..., columns]
        return self.relate(first, second)

    def between(
        self, first: Float[Tensor, "row latent"], second: Float[Tensor, "row latent"], names: Sequence[str]
    ) -> Float[Tensor, "row k"]:
        """The transformation from each row of `first` to that of `second`, of which `names` names the columns.

        Raises:
            InvalidInput: they lack what this relation reads.
        """
        columns = self._columns(names)
        return self.relate(first[:, columns], second[:, columns])

    def _columns(self, names: Sequence[str]) -> list[int]:
        wanted = self.reads(names)
        missing = [name for name in wanted if name not in names]
        if missing or not wanted:
            raise InvalidInput(
                f"the views record {', '.join(names) or 'no parameters'} and this transformation needs "
                f"{', '.join(missing) or 'latents'}; choose another of: {', '.join(RELATIONS)}, or data that records it"
            )
        return [names.index(name) for name in wanted]


class Drawn(Relation):
    """What was drawn, as the augmentations tell it: zeros where the two views are the same."""

    def num_outputs(self, task: Task) -> int:
        if task.num_views > 2:
            raise InvalidInput(
                f"transformation 'drawn' tells two views apart, and there are {task.num_views}; set "
                "stream.images_per_sample to 1 or 2"
            )
        return self._known(torch.empty(0, len(task.relative_names))).shape[1]

    def __call__(self, views: Views) -> Float[Tensor, "batch k"]:
        return self._known(views.relative)

    def _known(self, relative: Tensor | None) -> Tensor:
        if relative is None or relative.shape[1] == 0:
            raise InvalidInput(
                "nothing is drawn that tells the two views apart, and transformation 'drawn' is what was drawn; set "
                "policy.name to one that draws, such as affine or affine-colour (`viewfold list policies`)"
            )
        return relative


def _euler(a: Tensor, b: Tensor) -> Tensor:
    return angles_from_quaternion(relative_rotation(a, b))


def _matrix(a: Tensor, b: Tensor) -> Tensor:
    return matrix_from_quaternion(relative_rotation(a, b)).flatten(1)


def _difference(a: Tensor, b: Tensor) -> Tensor:
    # Of hues too: a hue is circular and its difference here is not, as in 3DIEBench: between -1 and 1.
    return b - a


def _rotation_and_colour(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([relative_rotation(a[:, :3], b[:, :3]), _difference(a[:, 3:], b[:, 3:])], dim=1)


def _latents(names: Sequence[str]) -> Sequence[str]:
    return [name for name in names if name.startswith("latent_")]


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """A quaternion's w, the cosine of half the angle, is nearly constant: it lets a predictor that is linear in z copy
    what does not turn, and a short training may stay there. The cosine of the whole angle is not."""
    q = relative_rotation(a, b)
    return quaternion_product(q, q)


RELATIONS: dict[str, Relation] = {
    "colour": Recorded(reads=lambda names: HUES, relate=_difference),
    "difference": Recorded(reads=_latents, relate=_difference),
    "drawn": Drawn(),
    "euler": Recorded(reads=lambda names: ANGLES, relate=_euler),
    "rotation": Recorded(reads=lambda names: ANGLES, relate=relative_rotation),
    "rotation+colour": Recorded(reads=lambda names: ANGLES + HUES, relate=_rotation_and_colour),
    "rotation-matrix": Recorded(reads=lambda names: ANGLES, relate=_matrix),
    "rotation-squared": Recorded(reads=lambda names: ANGLES, relate=_squared),
}
"""`drawn`: what takes the first view to the second, of what a policy drew (as many numbers as `relative_names`).
Of recorded latents: `rotation`: the relative quaternion (4) of the poses R1, R2, that is of R1^T R2; `euler`: its
angles about x, y, z in radians (3); `rotation-matrix`: its entries, row by row (9); `rotation-squared`: the
quaternion's square (4), axis times sine and cosine of the whole angle, the same for q and -q; `colour`: the differences
of two hues (2); `rotation+colour`: quaternion and differences (6); `difference`: the second image's latents minus the
first's, for latents of any other meaning."""


def check_relation(name: str) -> None:
    """For `__post_init__`: raises when `name` is no relation."""
    if name not in RELATIONS:
        raise unknown("transformation", name, list(RELATIONS))
