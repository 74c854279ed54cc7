"""The stain family: for histology in haematoxylin and eosin, how strongly each stain took."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from viewfold.augment.colour_ops import mix_channels
from viewfold.augment.draws import uniforms, uniforms_between
from viewfold.augment.frame import Frame
from viewfold.augment.rows import change_drawn_rows
from viewfold.augment.transform import Photometric
from viewfold.config import Config, check_ranges

STAINS = ("haematoxylin", "eosin", "residual")
"""What the rows of the stain matrix are; the residual is DAB, which absorbs what the other two do not."""
_DARKEST = 1 / 255
"""Pixels are read as at least this: the least that eight bits tell from black."""

# Optical density of red, green and blue for one unit of each stain: Ruifrok and Johnston 2001, of length 1.
_STAINS = torch.tensor([(0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)], dtype=torch.float64)
_STAINS /= torch.linalg.vector_norm(_STAINS, dim=1, keepdim=True)
# One projection for each stain: densities -> its concentration -> its densities; the three sum to the identity.
_PROJECTIONS = (_STAINS[:, :, None] * torch.linalg.inv(_STAINS).T[:, None, :]).float()


@dataclass(frozen=True, kw_only=True)
class StainConfig(Config):
    """How far the concentration c of each stain is drawn, uniformly to both sides: (1 + scale) c + shift."""

    scale: float = 0.05
    """Largest relative change of a stain's concentration, 0..1."""
    shift: float = 0.05
    """Largest shift of a stain's concentration, in optical densities (powers of ten of the light absorbed), 0..1."""
    probability: float = 1.0
    """Share of the views whose stains change, 0..1."""

    def __post_init__(self) -> None:
        check_ranges(self, scale=(0, 1), shift=(0, 1), probability=(0, 1))


class Stain(Photometric):
    """Changes each stain's concentration in the space of optical densities (in the manner of arXiv:1902.06543).

    Images hold light in 0..1, white being 1, as scanned slides do. Views that the probability leaves alone keep their
    bits; in the others what is darker than 1/255 is lifted to it first.
    """

    names = (*(f"{stain}_scale" for stain in STAINS), *(f"{stain}_shift_od" for stain in STAINS))
    labels: ClassVar[tuple[str, ...]] = names

    def __init__(self, config: StainConfig) -> None:
        self._config = config

    def draw(self, keys: Int64[Tensor, " batch"]) -> Float[Tensor, "batch 6"]:
        """Relative change of each stain, then the shift of each."""
        reach = (self._config.scale,) * 3 + (self._config.shift,) * 3
        ranges = {name: (-far, far) for name, far in zip(self.names, reach, strict=True)}
        chosen = uniforms(keys, ["stain chosen"]) < self._config.probability
        return uniforms_between(keys, ranges) * chosen

    def apply(
        self, images: Float[Tensor, "batch 3 height width"], draws: Float[Tensor, "batch 6"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """The images with their stains changed."""
        return change_drawn_rows(lambda drawn, by: change_stains(drawn, by[:, :3], by[:, 3:]), images, draws)

    def describe(self, draws: Float[Tensor, "batch 6"], frame: Frame) -> Float[Tensor, "batch 6"]:
        """The draws themselves."""
        return draws


def change_stains(
    images: Float[Tensor, "batch 3 height width"], scale: Float[Tensor, "batch 3"], shift: Float[Tensor, "batch 3"]
) -> Float[Tensor, "batch 3 height width"]:
    """With densities D = -log10(max(rgb, 1/255)), the stain matrix M and C = D M^-1: rgb of ((1 + scale) C + shift) M.

    One affine map of D for each image: D + D M^-1 diag(scale) M + shift M. Clamped to 0..1.
    """
    projections, stains = _PROJECTIONS.to(images.device), _STAINS.float().to(images.device)
    matrix = torch.eye(3, device=images.device) + (scale[:, :, None, None] * projections).sum(1)
    # In natural logarithms of light, where the map keeps its matrix and the offset takes the sign and the base.
    offset = (shift[:, :, None] * stains).sum(1)[:, :, None, None] * -math.log(10)
    return mix_channels(images.clamp(min=_DARKEST).log_(), matrix, offset).exp_().clamp_(max=1)
