"""What the Kornia modules that move points share: one sampling of images and masks by a family's own map."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from kornia.augmentation import GeometricAugmentationBase2D
from kornia.constants import Resample
from torch import Tensor

from viewfold.augment.frame import resample
from viewfold.augment.geometry import common_frame, compose
from viewfold.augment.kornia_native.keys import KeyedAugmentation
from viewfold.augment.transform import Geometric
from viewfold.errors import InvalidInput

Padding = Literal["reflection", "border", "zeros"]
_MODES: dict[Resample, Literal["bilinear", "nearest"]] = {
    Resample.BILINEAR: "bilinear",
    Resample.NEAREST: "nearest",
}


class KeyedGeometric(KeyedAugmentation, GeometricAugmentationBase2D):
    """Images are read bilinearly, masks at the nearest pixel: what is 0 or 1 stays 0 or 1.

    Coordinates are float32 whatever the data type of the images is, which is kept.
    """

    family: Geometric

    def apply_transform(
        self,
        input: Float[Tensor, "batch channel height width"],
        params: dict[str, Tensor],
        flags: dict[str, Any],
        transform: Tensor | None = None,
    ) -> Float[Tensor, "batch channel height width"]:
        """The images as `render` makes them of these draws, to the bit; masks too, with their flags."""
        frame = common_frame([self.family], input.shape[2], input.shape[3])
        with torch.autocast(input.device.type, enabled=False):
            places = compose([self.family], [params["draws"].to(input.device)], frame)
            return resample(
                input,
                places,
                frame,
                mode=sampling_mode(flags),
                padding=flags["padding_mode"],
                align_corners=flags["align_corners"],
            )


def sampling_flags(padding_mode: Padding, align_corners: bool) -> dict[str, Any]:
    """Kornia's flags: what a call, or a container for its masks, may override."""
    return {"resample": Resample.BILINEAR, "padding_mode": padding_mode, "align_corners": align_corners}


def sampling_mode(flags: dict[str, Any]) -> Literal["bilinear", "nearest"]:
    """How pixels are read, from Kornia's flags."""
    mode = _MODES.get(Resample.get(flags["resample"]))
    if mode is None:
        raise InvalidInput(f"resample={flags['resample']}: choose one of {', '.join(_MODES.values())}")
    return mode
