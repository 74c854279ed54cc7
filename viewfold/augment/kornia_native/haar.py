"""The Haar-affine family as a Kornia augmentation: a matrix like any other of Kornia's, drawn evenly over the group."""

from typing import Any

import torch
from jaxtyping import Float
from kornia.geometry.transform import warp_affine
from torch import Tensor

from viewfold.augment.frame import Frame
from viewfold.augment.geometry import nearest_affine
from viewfold.augment.haar import HaarAffine as HaarFamily
from viewfold.augment.haar import HaarAffineConfig
from viewfold.augment.kornia_native.geometric import KeyedGeometric, Padding, sampling_flags, sampling_mode

_DEFAULT = HaarAffineConfig()


class HaarAffine(KeyedGeometric):
    """`augment.haar.HaarAffine`, alone or in `AugmentationSequential`, where its matrix moves keypoints and boxes.

    `transform_matrix` is float32, in Kornia's pixel coordinates. What was moved out of the image does not come back by
    `inverse`: there is padding. For the inverse of bfloat16 or float16 images Kornia rounds the matrix to their type.
    """

    family: HaarFamily

    def __init__(
        self,
        config: HaarAffineConfig = _DEFAULT,
        *,
        p: float = 1.0,
        same_on_batch: bool = False,
        keepdim: bool = False,
        padding_mode: Padding = "reflection",
        align_corners: bool = False,
    ) -> None:
        super().__init__(config, p=p, same_on_batch=same_on_batch, keepdim=keepdim)
        self.family = HaarFamily(config)
        self.flags = sampling_flags(padding_mode, align_corners)

    def compute_transformation(
        self, input: Float[Tensor, "batch channel height width"], params: dict[str, Tensor], flags: dict[str, Any]
    ) -> Float[Tensor, "batch 3 3"]:
        """What takes a pixel (x, y, 1) of the image to where its content is in the view."""
        draws = params["draws"].to(input.device)
        height, width = input.shape[2:]
        frame = Frame.corners(height, width)
        nodes = frame.points(draws.device).expand(len(draws), -1, -1, -1)
        affine = nearest_affine(self.family.pull_back(nodes, draws, frame), frame).double()
        centre = affine.new_tensor([[(width - 1) / 2], [(height - 1) / 2]])
        linear, shift = affine[:, :, :2], affine[:, :, 2:] * frame.side
        forward = torch.linalg.inv(linear)
        moved = torch.cat([forward, centre - torch.matmul(forward, shift + centre)], dim=2)
        last = moved.new_tensor([[[0, 0, 1]]]).expand(len(moved), -1, -1)
        return torch.cat([moved, last], dim=1).float()

    def inverse_transform(
        self,
        input: Float[Tensor, "batch channel height width"],
        flags: dict[str, Any],
        transform: Tensor | None = None,
        size: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch channel height width"]:
        """The images warped by `transform`, which Kornia has inverted."""
        assert transform is not None
        restored: Tensor = warp_affine(
            input.float(),
            transform[:, :2].float(),
            (input.shape[2], input.shape[3]),
            sampling_mode(flags),
            flags["padding_mode"],
            flags["align_corners"],
        )
        return restored.to(input.dtype)
