"""What every family of augmentations is: named numbers, how they are drawn, how an image is made from them."""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor


class Transform(ABC):
    """One family. Everything random is drawn by `draw`; `apply` is a function of its arguments, so it can be replayed.

    Images are float32 in 0..1 on the way in and on the way out.
    """

    names: ClassVar[tuple[str, ...]]
    """Name and unit of each column of the parameters, in the order in which `draw` and `apply` hold them."""

    @abstractmethod
    def draw(self, keys: NDArray[np.uint64]) -> NDArray[np.float64]:
        """`[rows, len(names)]` parameters; row i is a function of `keys[i]` alone."""

    @abstractmethod
    def apply(self, images: Float[Tensor, "batch 3 height width"], params: Float[Tensor, "batch param"]) -> Tensor:
        """The images changed as `params` say, row by row; rows do not influence each other."""
