"""The field warp as a Kornia augmentation: images, masks, keypoints and boxes move together."""

from typing import Any

import torch
from jaxtyping import Float
from kornia.geometry.boxes import Boxes
from kornia.geometry.keypoints import Keypoints
from torch import Tensor

from viewfold.augment.field_points import push_forward
from viewfold.augment.field_warp import FOLD_BUDGET, FieldWarp, FieldWarpConfig
from viewfold.augment.frame import Frame
from viewfold.augment.kornia_native.geometric import KeyedGeometric, Padding, sampling_flags
from viewfold.errors import InvalidInput

_DEFAULT = FieldWarpConfig()
_POINTS_PER_EDGE = 8


class RandomFieldWarp(KeyedGeometric):
    """`FieldWarp`, alone or in `AugmentationSequential`.

    The params are its spectral coefficients and replay at any resolution. `p` is Kornia's gate: the samples it leaves
    alone keep their bits. `config.probability` is a gate within the draws, without Kornia's extra passes over the
    images; the samples it leaves alone are read where they are, equal up to rounding.

    Keypoints go where the exact map takes their content, to 0.01 pixels; images follow that map as it is interpolated
    between nodes. A warp has no matrix (`transform_matrix` is None, and containers skip it) and no inverse.
    """

    family: FieldWarp

    def __init__(
        self,
        config: FieldWarpConfig = _DEFAULT,
        *,
        p: float = 1.0,
        same_on_batch: bool = False,
        keepdim: bool = False,
        padding_mode: Padding = "reflection",
        align_corners: bool = False,
    ) -> None:
        super().__init__(config, p=p, same_on_batch=same_on_batch, keepdim=keepdim)
        self.family = FieldWarp(config)
        self.flags = sampling_flags(padding_mode, align_corners)

    @property
    def transform_matrix(self) -> Tensor | None:
        """None: no matrix says what a warp does."""
        return None

    def compute_transformation(self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any]) -> Tensor:
        """The identity, which nobody reads: Kornia passes a matrix to the handlers of masks, keypoints and boxes."""
        identity: Tensor = self.identity_matrix(input)
        return identity

    def compute_inverse_transformation(self, transform: Tensor) -> Tensor:
        """Refuses: all of Kornia's ways to an inverse come by here.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("RandomFieldWarp has no inverse: keep what was there before, or invert the rest")

    def apply_func(self, in_tensor: Tensor, params: dict[str, Tensor], flags: dict[str, Any] | None = None) -> Tensor:
        """Kornia's, which also notes the size of the image in the caller's params.

        Keypoints and boxes are in pixels and come without their image; after a replay at another size they are in the
        pixels of that size.
        """
        self._params["forward_input_shape"] = torch.tensor(in_tensor.shape)
        warped: Tensor = super().apply_func(in_tensor, params, flags)
        return warped

    def apply_transform_keypoint(
        self, input: Keypoints, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Keypoints:
        """Keypoints (x, y), in pixels, where the image shows what they mark; those that are not finite become NaN.

        Where the warp folds, the image shows it at several points, of which the keypoint is one.

        Raises:
            InvalidInput: no such point was found for a keypoint; it happens only where the warp folds, or nearly.
        """
        moved = input.clone()
        moved._data = self._move(input.data, params)
        return moved

    def apply_transform_box(
        self, input: Boxes, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Boxes:
        """The upright boxes around the warped outlines, of which 8 points an edge are followed.

        Raises:
            InvalidInput: as for keypoints.
        """
        corners = input.data
        along = torch.arange(_POINTS_PER_EDGE, device=corners.device)[:, None] / _POINTS_PER_EDGE
        outlines = torch.lerp(corners[..., None, :], corners.roll(-1, dims=-2)[..., None, :], along.to(corners))
        points = outlines.flatten(-4, -2)
        moved = self._move(points, params).view_as(outlines).flatten(-3, -2)
        (left, top), (right, bottom) = moved.amin(-2).unbind(-1), moved.amax(-2).unbind(-1)
        boxes = input.clone()
        boxes._data = torch.stack([left, top, right, top, right, bottom, left, bottom], dim=-1).view_as(corners)
        return boxes

    def _move(
        self, points: Float[Tensor, "*batch point 2"], params: dict[str, Tensor]
    ) -> Float[Tensor, "*batch point 2"]:
        rows = points if points.ndim == 3 else points[None]
        draws = self._applied_draws(params).to(points.device)
        if len(rows) != len(draws):
            raise InvalidInput(f"keypoints or boxes of {len(rows)} images for {len(draws)}: hand in one set for each")
        height, width = params["forward_input_shape"].tolist()[-2:]
        frame = Frame.coarse(height, width)
        centre = rows.new_tensor([(width - 1) / 2, (height - 1) / 2], dtype=torch.float64)
        places = ((rows - centre) / frame.side).transpose(1, 2)
        moved = push_forward(self.family, places, draws, frame).transpose(1, 2) * frame.side + centre
        lost = moved.isnan().any(2) & rows.isfinite().all(2)
        if bool(lost.any()):
            raise InvalidInput(
                f"RandomFieldWarp: the warp nearly folds, and for {int(lost.sum())} points no place was found, such as "
                f"{rows[lost][0].tolist()} (x, y); lower the standard deviations until gradient_budget, now "
                f"{self.family.config.gradient_budget:.2f}, is at most {FOLD_BUDGET}"
            )
        return moved.to(points.dtype if points.is_floating_point() else torch.float32).view_as(points)

    def _applied_draws(self, params: dict[str, Tensor]) -> Float[Tensor, "batch draw"]:
        """The draws, and zeros, which stand for the identity, where Kornia's gate leaves a sample alone."""
        draws = params["draws"]
        if self.p == 1:  # as for the image: Kornia does not look at the gate then
            return draws
        return torch.where((params["batch_prob"] > 0.5).to(draws.device)[:, None], draws, 0)
