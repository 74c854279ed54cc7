"""Views on the device: families of transformations, policies, keyed replayable draws, parameters as labels."""

from viewfold.augment.affine import Affine, AffineConfig
from viewfold.augment.blur import Blur, BlurConfig
from viewfold.augment.colour import Colour, ColourConfig
from viewfold.augment.crop import Crop, CropConfig
from viewfold.augment.field_colour import FieldColour, FieldColourConfig
from viewfold.augment.field_warp import FieldWarp, FieldWarpConfig
from viewfold.augment.fields import FieldConfig
from viewfold.augment.frame import Frame
from viewfold.augment.grayscale import Grayscale, GrayscaleConfig
from viewfold.augment.haar import HaarAffine, HaarAffineConfig
from viewfold.augment.multiview import make_views, view_param_names
from viewfold.augment.params import relative_names
from viewfold.augment.policies import (
    POLICIES,
    AffineColourPolicy,
    AffineHaarPolicy,
    AffinePolicy,
    FieldMediumPolicy,
    FieldMildPolicy,
    FieldStrongPolicy,
    MedicalHistologyPolicy,
    NonePolicy,
    PolicyConfig,
    SIEObjectsPolicy,
    SimCLRPolicy,
    policy_warnings,
)
from viewfold.augment.solarize import Solarize, SolarizeConfig
from viewfold.augment.stain import Stain, StainConfig
from viewfold.augment.transform import Geometric, Photometric, Transform
from viewfold.augment.view import describe, draw_names, draw_view, param_names, render

__all__ = [
    "POLICIES",
    "Affine",
    "AffineColourPolicy",
    "AffineConfig",
    "AffineHaarPolicy",
    "AffinePolicy",
    "Blur",
    "BlurConfig",
    "Colour",
    "ColourConfig",
    "Crop",
    "CropConfig",
    "FieldColour",
    "FieldColourConfig",
    "FieldConfig",
    "FieldMediumPolicy",
    "FieldMildPolicy",
    "FieldStrongPolicy",
    "FieldWarp",
    "FieldWarpConfig",
    "Frame",
    "Geometric",
    "Grayscale",
    "GrayscaleConfig",
    "HaarAffine",
    "HaarAffineConfig",
    "MedicalHistologyPolicy",
    "NonePolicy",
    "Photometric",
    "PolicyConfig",
    "SIEObjectsPolicy",
    "SimCLRPolicy",
    "Solarize",
    "SolarizeConfig",
    "Stain",
    "StainConfig",
    "Transform",
    "describe",
    "draw_names",
    "draw_view",
    "make_views",
    "param_names",
    "policy_warnings",
    "relative_names",
    "render",
    "view_param_names",
]
