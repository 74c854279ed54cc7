"""The random-field and Haar-affine families as Kornia augmentations, for pipelines that are Kornia's."""

from viewfold.augment.kornia_native.colour import RandomFieldColor
from viewfold.augment.kornia_native.haar import HaarAffine
from viewfold.augment.kornia_native.keys import keyed
from viewfold.augment.kornia_native.warp import RandomFieldWarp

__all__ = ["HaarAffine", "RandomFieldColor", "RandomFieldWarp", "keyed"]
