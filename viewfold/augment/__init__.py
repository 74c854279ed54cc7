"""Views on the device: families of transformations, policies, keyed replayable draws, parameters as labels."""

from viewfold.augment.affine import Affine, AffineConfig
from viewfold.augment.colour import Colour, ColourConfig
from viewfold.augment.multiview import apply_params, draw_view, make_views, param_names
from viewfold.augment.policies import (
    POLICIES,
    AffineColourPolicy,
    AffinePolicy,
    NonePolicy,
    PolicyConfig,
)
from viewfold.augment.transform import Transform

__all__ = [
    "POLICIES",
    "Affine",
    "AffineColourPolicy",
    "AffineConfig",
    "AffinePolicy",
    "Colour",
    "ColourConfig",
    "NonePolicy",
    "PolicyConfig",
    "Transform",
    "apply_params",
    "draw_view",
    "make_views",
    "param_names",
]
