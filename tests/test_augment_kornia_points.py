"""Keypoints and boxes go where the images show what they mark; matrices and inverses are what they say."""

from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from kornia.augmentation import AugmentationSequential
from kornia.geometry.boxes import Boxes
from kornia.geometry.keypoints import Keypoints
from kornia.geometry.transform import warp_affine
from torch import Tensor

from viewfold.augment.draws import view_keys
from viewfold.augment.field_points import pull_back_at, push_forward, smooth_values_at
from viewfold.augment.field_warp import FieldWarp, FieldWarpConfig
from viewfold.augment.frame import Frame
from viewfold.augment.geometry import compose
from viewfold.augment.kornia_native.haar import HaarAffine
from viewfold.augment.kornia_native.keys import KeyedAugmentation, keyed
from viewfold.augment.kornia_native.warp import RandomFieldWarp
from viewfold.augment.smooth import smooth_values
from viewfold.errors import InvalidInput

HEIGHT, WIDTH = 96, 128
POLAR = FieldWarpConfig(form="polar", global_share=0.5)
STRONG = FieldWarpConfig(translate_sd=0.1, rotation_sd=0.4, log_scale_sd=0.4, shear_sd=0.4)


def keys_of(batch: int) -> Tensor:
    return view_keys(0, [0] * batch, [f"shard/{i}" for i in range(batch)], 0)


def points_within(batch: int, num: int, margin: float) -> Tensor:
    unit = torch.rand(batch, num, 2, generator=torch.Generator().manual_seed(0))
    return margin + unit * (torch.tensor([WIDTH - 1.0, HEIGHT - 1.0]) - 2 * margin)


def dots(points: Tensor) -> Tensor:
    """`[batch, 1, HEIGHT, WIDTH]` with a bright dot of some pixels at each (x, y) of `[batch, 2]`."""
    x, y = points[:, 0, None, None], points[:, 1, None, None]
    square = (torch.arange(WIDTH) - x) ** 2 + (torch.arange(HEIGHT)[:, None] - y) ** 2
    return torch.exp(-square / (2 * 1.5**2))[:, None]


def brightest(images: Tensor) -> Tensor:
    """The centre of what is bright, (x, y) of each image."""
    weights = images[:, 0] / images[:, 0].sum((1, 2), keepdim=True)
    across, down = weights.sum(1), weights.sum(2)
    return torch.stack([across @ torch.arange(WIDTH).float(), down @ torch.arange(HEIGHT).float()], dim=1)


@pytest.mark.parametrize(
    "augmentation",
    [
        RandomFieldWarp(padding_mode="zeros"),
        RandomFieldWarp(POLAR, padding_mode="zeros", align_corners=True),
        HaarAffine(padding_mode="zeros"),
    ],
)
def test_a_bright_dot_moves_to_its_keypoint(augmentation: KeyedAugmentation) -> None:
    points = points_within(32, 1, margin=34)
    sequence = AugmentationSequential(augmentation, data_keys=["input", "keypoints"])
    with keyed(sequence, keys_of(32)):
        images, moved = sequence(dots(points[:, 0]), points)
    far = (moved - points).norm(dim=2)
    assert far.mean() > 2
    assert (brightest(images) - moved[:, 0]).norm(dim=1).max() < 0.25


@pytest.mark.parametrize("config", [FieldWarpConfig(), POLAR])
def test_the_dense_map_reads_a_keypoint_where_it_was(config: FieldWarpConfig) -> None:
    family, frame = FieldWarp(config), Frame.pixels(HEIGHT, WIDTH)
    points, draws = points_within(8, 50, margin=20), family.draw(keys_of(8))
    params = {"draws": draws, "batch_prob": torch.ones(8), "forward_input_shape": torch.tensor([8, 3, HEIGHT, WIDTH])}
    augmentation = RandomFieldWarp(config)
    moved = augmentation.transform_keypoints(Keypoints(points), params, augmentation.flags).data
    places = compose([family], [draws], frame) * frame.side + torch.tensor([[[(WIDTH - 1) / 2]], [[(HEIGHT - 1) / 2]]])
    grid = 2 * moved[:, None] / torch.tensor([WIDTH - 1.0, HEIGHT - 1.0]) - 1
    read = F.grid_sample(places, grid, mode="bilinear", align_corners=True)[:, :, 0].transpose(1, 2)
    inside = (grid[:, 0].abs() <= 1).all(2)
    assert inside.float().mean() > 0.9
    assert (read - points).norm(dim=2)[inside].max() < 0.01


def test_fields_at_points_are_the_fields_of_the_lattice() -> None:
    family, frame = FieldWarp(FieldWarpConfig(global_share=0.3)), Frame.coarse(40, 60)
    draws = family.draw(keys_of(3))
    down, across = frame.down(draws.device), frame.across(draws.device)
    lattice = smooth_values(draws, frame, family.config.field)
    points = torch.stack([across.expand(len(down), -1), down[:, None].expand(-1, len(across))]).flatten(1)
    values = smooth_values_at(draws, points.expand(3, -1, -1), family.config.field)
    torch.testing.assert_close(values, lattice.flatten(2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("form", ["shear", "polar"])
def test_every_point_is_found_in_warps_of_twice_the_default_strength(form: Literal["shear", "polar"]) -> None:
    config = FieldWarpConfig(translate_sd=0.04, rotation_sd=0.1, log_scale_sd=0.1, shear_sd=0.08, form=form)
    family, frame = FieldWarp(config), Frame.coarse(HEIGHT, WIDTH)
    draws = family.draw(keys_of(64))
    unit = torch.rand(64, 2, 20, generator=torch.Generator().manual_seed(0)) - 0.5
    places = unit * torch.tensor(frame.extent)[:, None]
    points = push_forward(family, places, draws, frame)
    assert (pull_back_at(family, points, draws.double(), frame) - places).abs().max() * WIDTH < 1e-3


def test_where_a_warp_folds_a_point_is_a_true_one_or_none_and_none_is_an_error() -> None:
    family, frame = FieldWarp(STRONG), Frame.coarse(HEIGHT, WIDTH)
    draws = family.draw(keys_of(64))
    points = points_within(64, 20, margin=0)
    centre = torch.tensor([(WIDTH - 1) / 2, (HEIGHT - 1) / 2])
    places = ((points - centre) / frame.side).transpose(1, 2)
    moved = push_forward(family, places, draws, frame)
    missing = moved.isnan().any(1)
    assert 0 < missing.float().mean() < 0.08  # half as many again without a bound on the steps
    off = (pull_back_at(family, moved, draws.double(), frame) - places).norm(dim=1)
    assert off[~missing].max() * WIDTH < 1e-3
    augmentation = RandomFieldWarp(STRONG)
    params = {"draws": draws, "batch_prob": torch.ones(64), "forward_input_shape": torch.tensor([64, 3, HEIGHT, WIDTH])}
    with pytest.raises(InvalidInput, match=r"nearly folds.*gradient_budget"):
        augmentation.transform_keypoints(Keypoints(points), params, augmentation.flags)
    gated = RandomFieldWarp(STRONG, p=0.5)
    skip = {**params, "batch_prob": (~missing.any(1)).float()}
    assert gated.transform_keypoints(Keypoints(points), skip, gated.flags).data.isfinite().all()
    kept = ~missing.any(1)
    rest = {**params, "draws": draws[kept], "batch_prob": params["batch_prob"][kept]}
    assert augmentation.transform_keypoints(Keypoints(points[kept]), rest, augmentation.flags).data.isfinite().all()


def test_keypoints_that_mark_nothing_stay_nan_and_none_at_all_are_fine() -> None:
    images, points = torch.rand(2, 3, HEIGHT, WIDTH), points_within(2, 3, margin=20)
    points[1, 2, 0] = torch.nan
    sequence = AugmentationSequential(RandomFieldWarp(), data_keys=["input", "keypoints"])
    moved = sequence(images, points)[1]
    assert moved[1, 2].isnan().all()
    assert int(moved.isnan().sum()) == 2
    assert sequence(images, points[:, :0])[1].shape == (2, 0, 2)
    assert sequence(images, points.double())[1].dtype == torch.float64
    with pytest.raises(InvalidInput, match="of 1 images for 2"):
        sequence(images, points[0])


@pytest.mark.parametrize("augmentation", [RandomFieldWarp(padding_mode="zeros"), RandomFieldWarp(POLAR)])
def test_boxes_enclose_what_they_enclosed(augmentation: RandomFieldWarp) -> None:
    boxes = torch.tensor([[[35.0, 30, 60, 65], [70, 40, 90, 60]]]).repeat(12, 1, 1)
    masks = torch.zeros(12, 2, HEIGHT, WIDTH)
    for i, (left, top, right, bottom) in enumerate(boxes[0].int().tolist()):
        masks[:, i, top : bottom + 1, left : right + 1] = 1
    sequence = AugmentationSequential(augmentation, data_keys=["input", "mask", "bbox_xyxy"])
    with keyed(sequence, keys_of(12)):
        _, warped, moved = sequence(torch.rand(12, 3, HEIGHT, WIDTH), masks, boxes)
    for mask, box in zip(warped.flatten(0, 1), moved.flatten(0, 1), strict=True):
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        seen = torch.stack([columns[0], rows[0], columns[-1], rows[-1]])
        assert (seen - box).abs().max() <= 1.1  # a mask is whole pixels
    assert (moved - boxes).abs().max() > 4
    objects = Boxes.from_tensor(boxes, mode="xyxy_plus")
    assert torch.equal(sequence(masks, masks, objects, params=sequence._params)[2].to_tensor("xyxy_plus"), moved)


def test_a_replay_at_twice_the_resolution_takes_keypoints_along() -> None:
    torch.manual_seed(0)
    sequence = AugmentationSequential(RandomFieldWarp(), data_keys=["input", "keypoints"])
    points = points_within(4, 5, margin=10)
    moved = sequence(torch.rand(4, 3, HEIGHT, WIDTH), points)[1]
    # A pixel's centre is at its index: (2 i + 0.5) is where (i) was.
    twice = sequence(torch.rand(4, 3, 2 * HEIGHT, 2 * WIDTH), 2 * points + 0.5, params=sequence._params)[1]
    torch.testing.assert_close(twice, 2 * moved + 0.5, atol=1e-3, rtol=0)


def test_a_warp_has_no_matrix_and_refuses_to_be_inverted() -> None:
    images, points, boxes = torch.rand(2, 3, 32, 32), torch.ones(2, 1, 2), torch.tensor([[[2.0, 2, 8, 8]]] * 2)
    sequence = AugmentationSequential(RandomFieldWarp(), data_keys=["input", "mask", "keypoints", "bbox_xyxy"])
    out = sequence(images, images, points, boxes)
    assert sequence.transform_matrix is None
    for value, key in zip(out, ("input", "mask", "keypoints", "bbox_xyxy"), strict=True):
        with pytest.raises(NotImplementedError, match="has no inverse"):
            sequence.inverse(value, data_keys=[key])


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_haar_matrix_is_the_one_that_kornia_warps_by(align_corners: bool) -> None:
    augmentation, images = HaarAffine(align_corners=align_corners), torch.rand(6, 3, HEIGHT, WIDTH)
    with keyed(augmentation, keys_of(6)):
        out = augmentation(images)
    matrix = augmentation.transform_matrix
    assert matrix is not None
    expected = warp_affine(
        images, matrix[:, :2], (HEIGHT, WIDTH), padding_mode="reflection", align_corners=align_corners
    )
    assert (out - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("p", [1.0, 0.5])
def test_the_haar_inverse_brings_images_masks_and_keypoints_back(p: float) -> None:
    torch.manual_seed(0)
    points = points_within(8, 1, margin=40)
    images = dots(points[:, 0])
    augmentation = HaarAffine(p=p, padding_mode="zeros")
    sequence = AugmentationSequential(augmentation, data_keys=["input", "mask", "keypoints"])
    out = sequence(images, (images > 0.3).float(), points)
    matrix = augmentation.transform_matrix
    assert matrix is not None
    torch.testing.assert_close(out[2][:, 0, :, None], matrix[:, :2, :2] @ points[:, 0, :, None] + matrix[:, :2, 2:])
    inverse: Any = sequence.inverse(*out)
    restored, mask, back = inverse
    assert (brightest(restored) - points[:, 0]).norm(dim=1).max() < 0.05
    assert (mask != (images > 0.3)).float().mean() < 1e-3
    torch.testing.assert_close(back, points, atol=1e-3, rtol=0)
