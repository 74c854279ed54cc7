"""What a family of augmentations is: numbers drawn by key, and what they do to points or to colours.

Everything random is drawn by `draw`; the rest is a function of its arguments, so a view can be made again. Draws of
all zeros are the identity. Images are float32 in 0..1 on the way in and out; rows do not influence each other.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Float, Int64
from torch import Tensor

from viewfold.augment.frame import Frame


class Transform(ABC):
    """A family: how its numbers are drawn."""

    names: tuple[str, ...]
    """Name and unit of each column of the draws."""

    @abstractmethod
    def draw(self, keys: Int64[Tensor, " batch"]) -> Float[Tensor, "batch draw"]:
        """One column for each of `names`, on the keys' device; row i is a function of `keys[i]` alone."""


class Geometric(Transform):
    """A family that moves points. All of a policy's are composed into one sampling of the image."""

    is_affine: ClassVar[bool]
    """Whether straight lines stay straight: then few points say where all pixels come from."""

    @abstractmethod
    def pull_back(
        self, points: Float[Tensor, "batch 2 rows columns"], draws: Float[Tensor, "batch draw"], frame: Frame
    ) -> Float[Tensor, "batch 2 rows columns"]:
        """Where in the input each point (x, y) of the output is read; both in the frame's coordinates."""


class Photometric(Transform):
    """A family that changes colours, and at most looks at neighbouring pixels."""

    labels: ClassVar[tuple[str, ...]]
    """Name and unit of what `describe` says."""

    @abstractmethod
    def apply(
        self, images: Float[Tensor, "batch 3 height width"], draws: Float[Tensor, "batch draw"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """The images changed as the draws say."""

    @abstractmethod
    def describe(self, draws: Float[Tensor, "batch draw"], frame: Frame) -> Float[Tensor, "batch label"]:
        """One column for each of `labels`: what was done to the image as a whole."""
