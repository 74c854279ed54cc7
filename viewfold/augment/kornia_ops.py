"""The Kornia augmentations that carry out what was drawn; the only file that imports kornia.

Callers always hand in `params`, and Kornia then draws nothing. Kornia keeps a reference to the last `params`, which
nothing here reads.
"""

import functools
from collections.abc import Callable
from types import ModuleType

from torch import Tensor

from viewfold.errors import MissingDependency

Operation = Callable[..., Tensor]
"""Called as `operation(images, params=...)` with one row of every parameter for each image."""


@functools.cache
def random_affine() -> Operation:
    """`RandomAffine`, bilinear. Reflected borders: a black frame would tell the network what the transformation was."""
    operation: Operation = _kornia().RandomAffine(degrees=0.0, p=1.0, padding_mode="reflection", align_corners=False)
    return operation


@functools.cache
def color_jitter() -> Operation:
    """`ColorJitter`: multiplicative brightness, contrast about the mean luma, then saturation and hue."""
    operation: Operation = _kornia().ColorJitter(p=1.0)
    return operation


@functools.cache
def random_grayscale() -> Operation:
    """`RandomGrayscale`. Only with `p` strictly between 0 and 1 does Kornia look at the gate in `params`."""
    operation: Operation = _kornia().RandomGrayscale(p=0.5)
    return operation


def _kornia() -> ModuleType:
    try:
        import kornia.augmentation
    except ModuleNotFoundError as error:
        raise MissingDependency("augmentations need kornia: pip install 'viewfold[train]'") from error
    return kornia.augmentation
