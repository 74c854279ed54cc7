"""The field colour as a Kornia augmentation: it changes images, and passes masks, keypoints and boxes through."""

from typing import Any

import torch
from jaxtyping import Float
from kornia.augmentation import IntensityAugmentationBase2D
from torch import Tensor

from viewfold.augment.field_colour import FieldColour, FieldColourConfig
from viewfold.augment.kornia_native.keys import KeyedAugmentation
from viewfold.errors import InvalidInput

_DEFAULT = FieldColourConfig()


class RandomFieldColor(KeyedAugmentation, IntensityAugmentationBase2D):
    """`FieldColour`, alone or in `AugmentationSequential`, on images in 0..1; their data type is kept.

    `p` is Kornia's gate, for which it computes every sample; `config.probability` is a gate within the draws, for which
    a CPU computes only the samples that change. Both leave the others alone to the bit.
    """

    def __init__(
        self,
        config: FieldColourConfig = _DEFAULT,
        *,
        p: float = 1.0,
        same_on_batch: bool = False,
        keepdim: bool = False,
    ) -> None:
        super().__init__(config, p=p, same_on_batch=same_on_batch, keepdim=keepdim)
        self._family = FieldColour(config)

    def apply_transform(
        self,
        input: Float[Tensor, "batch channel height width"],
        params: dict[str, Tensor],
        flags: dict[str, Any],
        transform: Tensor | None = None,
    ) -> Float[Tensor, "batch channel height width"]:
        """The images as `render` makes them of these draws, to the bit.

        Raises:
            InvalidInput: the images have other than three channels.
        """
        if input.shape[1] != 3:
            raise InvalidInput(f"RandomFieldColor: images need 3 channels, red, green and blue; got {input.shape[1]}")
        with torch.autocast(input.device.type, enabled=False):
            changed = self._family.apply(input.float(), params["draws"].to(input.device)).to(input.dtype)
        return changed.clone() if changed is input else changed
