"""The transformations that invariance curves are measured against, built from the families that training views use.

Nothing is random: rotations, scalings and the like go one way for even rows and the other way for odd rows, so that an
encoder which knows only one direction does not look invariant, and a random field belongs to its row. A row's result
is the same in any batch that has it in the same place. What comes into an image at its borders is its own reflection.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.augment import Affine, AffineConfig, Colour, ColourConfig, FieldConfig, FieldWarp, FieldWarpConfig
from viewfold.augment.draws import view_keys
from viewfold.augment.frame import resample
from viewfold.augment.geometry import common_frame, compose
from viewfold.augment.transform import Geometric
from viewfold.pipeline.jpeg import encode_jpeg, jpeg_pixels
from viewfold.ssl.evaluate import Transformation

Images = Float[Tensor, "image 3 height width"]

UNCOMPRESSED = 100.0
"""As a JPEG quality: the pixels themselves, not encoded at all."""
_AFFINE = Affine(AffineConfig())
_COLOUR = Colour(ColourConfig(hue_turns=0.5))
# Of unit strength, and each row's field of the same: the strength of a curve is then that of every image.
_FIELD = FieldWarp(
    FieldWarpConfig(
        translate_sd=1.0,
        rotation_sd=0.0,
        log_scale_sd=0.0,
        shear_sd=0.0,
        field=FieldConfig(cutoff=4, normalise="sample"),
    )
)


def rotate(images: Images, degrees: float) -> Images:
    """Turned about the centre, even rows clockwise and odd rows the other way."""
    return _moved(_AFFINE, images, _columns(_AFFINE.names, images, rotation_rad=math.radians(degrees)))


def scale(images: Images, factor: float) -> Images:
    """Magnified by `factor` about the centre, odd rows by 1 / `factor`."""
    return _moved(_AFFINE, images, _columns(_AFFINE.names, images, log_scale=math.log(factor)))


def shear(images: Images, degrees: float) -> Images:
    """Rows of pixels pushed sideways until an upright line leans by `degrees`, to the other side in odd rows."""
    return _moved(_AFFINE, images, _columns(_AFFINE.names, images, shear_rad=math.radians(degrees)))


def translate(images: Images, share: float) -> Images:
    """Moved by `share` of the side: rows 0, 1, 2, 3, ... to the right, left, down, up, and again."""
    draws = _columns(_AFFINE.names, images, translate_x_ratio=share, translate_y_ratio=share)
    vertical = torch.arange(len(images), device=images.device) // 2 % 2 == 1
    draws[vertical, _AFFINE.names.index("translate_x_ratio")] = 0
    draws[~vertical, _AFFINE.names.index("translate_y_ratio")] = 0
    return _moved(_AFFINE, images, draws)


def turn_hue(images: Images, turns: float) -> Images:
    """The hue of HSV turned, odd rows the other way; 0.5 is the complementary colour."""
    return _COLOUR.apply(images, _columns(_COLOUR.names, images, hue_turns=turns))


def brighten(images: Images, log_gain: float) -> Images:
    """Pixels multiplied by exp(`log_gain`), odd rows by its inverse, and clamped to 0..1."""
    return _COLOUR.apply(images, _columns(_COLOUR.names, images, log_brightness=log_gain))


def warp(images: Images, sd: float) -> Images:
    """Each point moved by a smooth random field: along each axis `sd` of the side, as a standard deviation."""
    keys = view_keys(0, [0] * len(images), [f"curve {row}" for row in range(len(images))], 0).to(images.device)
    return _moved(_FIELD, images, sd * _FIELD.draw(keys))


def compress(images: Images, quality: float) -> Images:
    """Rounded to 8 bits, stored as a JPEG of this quality and read back; at `UNCOMPRESSED` the images themselves."""
    if quality == UNCOMPRESSED:
        return images
    pixels = (images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    height, width = pixels.shape[1:3]
    side = min(height, width)
    read = [torch.from_numpy(jpeg_pixels(encode_jpeg(p, round(quality)), (height, width), side)) for p in pixels]
    return torch.stack(read).permute(0, 3, 1, 2).to(images) / 255


_ROWS: tuple[tuple[str, str, tuple[float, ...], Callable[[Tensor, float], Tensor]], ...] = (
    ("rotation", "degrees", (0, 5, 10, 20, 45, 90, 135, 180), rotate),
    ("scale", "factor", (1, 1.05, 1.1, 1.2, 1.35, 1.5, 1.75, 2), scale),
    ("shear", "degrees", (0, 2, 5, 10, 15, 20, 30, 40), shear),
    ("translation", "share of the side", (0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3), translate),
    ("hue", "turns", (0, 0.02, 0.05, 0.1, 0.15, 0.25, 0.35, 0.5), turn_hue),
    ("brightness", "log gain", (0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1), brighten),
    # Beyond 0.08 warps begin to fold over.
    ("field", "share of the side", (0, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08), warp),
    ("jpeg", "quality", (UNCOMPRESSED, 95, 85, 70, 50, 30, 15, 5), compress),
)
TRANSFORMATIONS = tuple(
    Transformation(name=name, unit=unit, strengths=strengths, apply=apply) for name, unit, strengths, apply in _ROWS
)
"""The curves of a card; the first strength of each is the identity, and the last is one that people still see through
or, for rotation and hue, the largest there is."""


def _columns(names: tuple[str, ...], images: Tensor, **strengths: float) -> Float[Tensor, "image draw"]:
    """Draws that are 0 but for the columns named: plus the strength for even rows, minus it for odd ones."""
    sign = 1.0 - 2.0 * (torch.arange(len(images), device=images.device) % 2)
    draws = torch.zeros(len(images), len(names), device=images.device)
    for name, strength in strengths.items():
        draws[:, names.index(name)] = sign * strength
    return draws


def _moved(family: Geometric, images: Tensor, draws: Tensor) -> Images:
    frame = common_frame([family], *images.shape[2:])
    return resample(images, compose([family], [draws], frame), frame)
