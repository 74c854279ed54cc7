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
from viewfold.ssl.geometry import relative_rotation
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
        return self._between(torch.empty(2, 0, len(task.param_names)), task.param_names).shape[1]

    def __call__(self, views: Views) -> Float[Tensor, "batch k"]:
        return self._between(views.params, views.names)

    def _between(self, params: Tensor | None, names: Sequence[str]) -> Tensor:
        wanted = self.reads(names)
        missing = [name for name in wanted if name not in names]
        if params is None or missing or not wanted:
            raise InvalidInput(
                f"the views record {', '.join(names) or 'no parameters'} and this transformation needs "
                f"{', '.join(missing) or 'latents'}; choose another of: {', '.join(RELATIONS)}, or data that records it"
            )
        first, second = params[..., [names.index(name) for name in wanted]]
        return self.relate(first, second)


class Drawn(Relation):
    """What was drawn, as the augmentations tell it: zeros where the two views are the same."""

    def num_outputs(self, task: Task) -> int:
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


def _rotation_and_colour(a: Tensor, b: Tensor) -> Tensor:
    """Hue is circular and its difference here is not, as in 3DIEBench: between -1 and 1."""
    return torch.cat([relative_rotation(a[:, :3], b[:, :3]), b[:, 3:] - a[:, 3:]], dim=1)


def _latents(names: Sequence[str]) -> Sequence[str]:
    return [name for name in names if name.startswith("latent_")]


RELATIONS: dict[str, Relation] = {
    "difference": Recorded(reads=_latents, relate=lambda a, b: b - a),
    "drawn": Drawn(),
    "rotation": Recorded(reads=lambda names: ANGLES, relate=relative_rotation),
    "rotation+colour": Recorded(reads=lambda names: ANGLES + HUES, relate=_rotation_and_colour),
}
"""`drawn`: what takes the first view to the second, of what a policy drew (as many numbers as `relative_names`).
Of recorded latents: `rotation`: the relative quaternion (4) of the poses; `rotation+colour`: and the differences of two
hues (6); `difference`: the second image's latents minus the first's, for latents of any other meaning."""


def check_relation(name: str) -> None:
    """For `__post_init__`: raises when `name` is no relation."""
    if name not in RELATIONS:
        raise unknown("transformation", name, list(RELATIONS))
