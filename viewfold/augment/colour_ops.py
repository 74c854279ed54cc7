"""Brightness, contrast, saturation and hue of images in 0..1, with one number for each image or for each pixel.

Two forms. `exact` is the chain that Kornia's colour jitter computes. `yiq` is linear, clamped once, and cheaper; it
turns hue in the plane of I and Q, so its colours differ from those of HSV.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.augment.rows import on_eager_cpu

ColourMode = Literal["exact", "yiq"]

_LUMA = (0.299, 0.587, 0.114)
_YIQ = torch.tensor([_LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)], dtype=torch.float64)
_QUARTER_TURN = torch.tensor([[0, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=torch.float64)  # as HSV: red to green
# Products and inverse in float64: with the textbook's inverse of three digits the identity would be off by 1e-3.
_CHROMA_TURNED = (torch.linalg.inv(_YIQ) @ _QUARTER_TURN @ _YIQ).tolist()
"""Takes rgb to its chroma turned by 90 degrees in the plane of I and Q; has no luma, and grey becomes 0."""


def luma(images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1 height width"]:
    """0.299 r + 0.587 g + 0.114 b."""
    red, green, blue = _channels(images)
    grey: Tensor = (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])
    return grey


def adjust(
    images: Float[Tensor, "batch 3 height width"],
    numbers: Float[Tensor, "batch 4 rows columns"],
    mode: ColourMode,
    *,
    saturation: bool,
    hue: bool,
) -> Float[Tensor, "batch 3 height width"]:
    """`adjust_exact` or `adjust_yiq` by three logarithms of factors and a hue in turns, each 0 for the identity.

    `numbers` are told for each image (1 x 1) or each pixel. Saturation and hue that are not asked for are not read.
    """
    factors = numbers[:, :3].exp()
    parts = (
        factors[:, 0:1],
        factors[:, 1:2],
        factors[:, 2:3] if saturation else None,
        numbers[:, 3:4] if hue else None,
    )
    return adjust_exact(images, *parts) if mode == "exact" else adjust_yiq(images, *parts)


def adjust_exact(
    images: Float[Tensor, "batch 3 height width"],
    brightness: Float[Tensor, "batch 1 #height #width"],
    contrast: Float[Tensor, "batch 1 #height #width"],
    saturation: Float[Tensor, "batch 1 #height #width"] | None = None,
    hue: Float[Tensor, "batch 1 #height #width"] | None = None,
) -> Float[Tensor, "batch 3 height width"]:
    """Brightness, contrast about the mean luma, saturation about luma, each clamped to 0..1; then hue, turned in HSV.

    Factors are 0 or more, 1 for the identity; hue is in turns, 0 for the identity. None leaves a step out. With one
    number for each image this is `kornia.augmentation.ColorJitter(order=(0, 1, 2, 3))`.
    """
    images = (images * brightness).clamp_(0, 1)
    grey = (1 - contrast) * _mean_luma(images)
    images.mul_(contrast).add_(grey).clamp_(0, 1)
    if saturation is not None:
        images = torch.lerp(luma(images), images, saturation).clamp_(0, 1)
    return images if hue is None else _turn_hue(images, hue)


def adjust_yiq(
    images: Float[Tensor, "batch 3 height width"],
    brightness: Float[Tensor, "batch 1 #height #width"],
    contrast: Float[Tensor, "batch 1 #height #width"],
    saturation: Float[Tensor, "batch 1 #height #width"] | None = None,
    hue: Float[Tensor, "batch 1 #height #width"] | None = None,
) -> Float[Tensor, "batch 3 height width"]:
    """The same numbers applied in YIQ, clamped to 0..1 once, at the end; arguments as for `adjust_exact`.

    With k = b c: (I, Q) <- k s Rot(hue) (I, Q) and Y <- k Y + (1 - c) b mean(Y of the input). Written for rgb this is
    k s cos rgb + k s sin J rgb + (k - k s cos) Y + (1 - c) b mean, where J turns the chroma by 90 degrees.
    """
    whole = brightness * contrast
    chroma = whole if saturation is None else whole * saturation
    grey = (1 - contrast) * brightness * _mean_luma(images)
    if saturation is None and hue is None:
        return (images * whole).add_(grey).clamp_(0, 1)
    kept, turned = (chroma, None) if hue is None else _rotated(chroma, hue)
    if kept.shape[2:] == (1, 1):
        return mix_channels(images, _yiq_matrix(whole, kept, turned), grey).clamp_(0, 1)
    changed = images * kept
    if turned is not None:
        red, green, blue = _channels(images)
        # The rows of J sum to 0, so two differences of channels hold all of the chroma.
        red_green, blue_green = (red - green).mul_(turned), (blue - green).mul_(turned)
        for channel, (by_red, _, by_blue) in zip(_channels(changed), _CHROMA_TURNED, strict=True):
            channel.add_(red_green, alpha=by_red).add_(blue_green, alpha=by_blue)
    return changed.add_(luma(images).mul_(whole - kept).add_(grey)).clamp_(0, 1)


def mix_channels(
    images: Float[Tensor, "batch 3 height width"],
    matrix: Float[Tensor, "batch 3 3"],
    offset: Float[Tensor, "batch _ 1 1"],
) -> Float[Tensor, "batch 3 height width"]:
    """`matrix` times the channels of each pixel, plus `offset`; a matrix for each image."""
    if on_eager_cpu(images):  # one pass; written out below, a compiler fuses it with what comes before and after
        mixed = torch.baddbmm(offset.flatten(2), matrix, images.flatten(2))
        return mixed.view_as(images)
    red, green, blue = (matrix[:, :, i, None, None] * images[:, i : i + 1] for i in range(3))
    return red.add_(green).add_(blue).add_(offset)


def _channels(images: Float[Tensor, "batch 3 height width"]) -> list[Tensor]:
    return [images[:, i : i + 1] for i in range(3)]


def _mean_luma(images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1 1 1"]:
    # Along rows first: whatever the batch, each row of pixels is then summed in the same order.
    return luma(images.mean(3, keepdim=True).mean(2, keepdim=True))


def _rotated(chroma: Tensor, hue: Tensor) -> tuple[Tensor, Tensor]:
    angle = hue * (2 * math.pi)
    return chroma * angle.cos(), chroma * angle.sin()


def _yiq_matrix(whole: Tensor, kept: Tensor, turned: Tensor | None) -> Float[Tensor, "batch 3 3"]:
    whole, kept = whole[:, 0], kept[:, 0]
    matrix = kept * torch.eye(3, device=kept.device) + (whole - kept) * kept.new_tensor(_LUMA)
    return matrix if turned is None else matrix + turned[:, 0] * kept.new_tensor(_CHROMA_TURNED)


def _turn_hue(
    images: Float[Tensor, "batch 3 height width"], hue: Float[Tensor, "batch 1 #height #width"]
) -> Float[Tensor, "batch 3 height width"]:
    """The hue of HSV turned, saturation and value kept: in sextants, and without a branch on the largest channel."""
    red, green, blue = _channels(images)
    top, bottom = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    chroma = top - bottom
    # From red (0) either way round to cyan (3): |h| = 1 + (g + b - r - min) / chroma, h > 0 where g > b.
    sextant = (green + blue).sub_(red).sub_(bottom).div_(chroma.clamp(min=1e-12)).add_(1).copysign_(green - blue)
    sextant = sextant.add_(6 * hue)
    sextant = sextant.sub_((sextant / 6).round_().mul_(6))  # -3..3; torch.remainder takes three times as long
    # A channel is lowest on two sextants, opposite its own colour, and rises to both sides within one sextant.
    share = (sextant + images.new_tensor([3.0, 1.0, -1.0])[:, None, None]).abs_().sub_(3).abs_().sub_(1).clamp_(0, 1)
    share = share.mul_(chroma)
    return torch.sub(top, share, out=share)
