"""What the Kornia modules keep of Kornia's contract: replay, gates, data types, keys; alone and in containers."""

import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kornia.augmentation import AugmentationSequential, RandomHorizontalFlip
from kornia.geometry.transform import get_affine_matrix2d, warp_affine
from torch import Tensor

from viewfold.augment.draws import view_keys
from viewfold.augment.field_colour import FieldColour, FieldColourConfig
from viewfold.augment.field_warp import FieldWarp, FieldWarpConfig
from viewfold.augment.frame import resample
from viewfold.augment.geometry import common_frame, compose
from viewfold.augment.haar import HaarAffine as HaarFamily
from viewfold.augment.haar import HaarAffineConfig
from viewfold.augment.kornia_native.colour import RandomFieldColor
from viewfold.augment.kornia_native.haar import HaarAffine
from viewfold.augment.kornia_native.keys import KeyedAugmentation, keyed
from viewfold.augment.kornia_native.warp import RandomFieldWarp
from viewfold.augment.transform import Geometric
from viewfold.errors import InvalidInput

Builder = Callable[..., KeyedAugmentation]
BUILDERS: list[Builder] = [RandomFieldWarp, RandomFieldColor, HaarAffine]
GEOMETRIC: list[Builder] = [RandomFieldWarp, HaarAffine]
every = pytest.mark.parametrize("build", BUILDERS)
geometric = pytest.mark.parametrize("build", GEOMETRIC)


def random_images(batch: int = 4, height: int = 24, width: int = 36) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def smooth_images(batch: int, height: int, width: int) -> Tensor:
    """A few waves for each image, the same picture at any resolution up to its pixels' area."""
    y, x = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
    phase = torch.arange(batch * 3).reshape(batch, 3, 1, 1).float()
    return 0.5 + 0.25 * torch.sin(5 * x + phase) * torch.cos(4 * y[:, None] + 2 * phase) + 0.1 * torch.sin(9 * x)


def checkerboard(batch: int = 4, height: int = 24, width: int = 36) -> Tensor:
    y, x = torch.arange(height)[:, None] // 5, torch.arange(width) // 7
    return ((y + x) % 2).float().expand(batch, 1, -1, -1)


def keys_of(batch: int, view: int = 0) -> Tensor:
    return view_keys(3, [1] * batch, [f"shard/{i}" for i in range(batch)], view)


@contextmanager
def still_generator() -> Iterator[None]:
    """Torch's global generator is where it was at the end."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(before, torch.get_rng_state())


def test_a_container_replays_images_and_masks_to_the_bit_from_pickled_params() -> None:
    images, masks = random_images(16), checkerboard(16)
    torch.manual_seed(0)
    sequence = AugmentationSequential(
        RandomFieldColor(p=0.8), RandomFieldWarp(p=0.7), HaarAffine(p=0.7), data_keys=["input", "mask"]
    )
    first = sequence(images, masks)
    params = pickle.loads(pickle.dumps(sequence._params))
    sequence(images.flip(0), masks)
    for before, again in zip(first, sequence(images, masks, params=params), strict=True):
        assert torch.equal(before, again)
    assert not torch.equal(first[0], images)
    assert not torch.equal(first[1], masks)
    assert set(first[1].unique().tolist()) == {0.0, 1.0}


@every
def test_params_are_a_row_of_a_few_kilobytes_for_each_sample(build: Builder) -> None:
    augmentation = build()
    augmentation(random_images(5, 64, 64))
    draws = augmentation._params["draws"]
    assert draws.dtype == torch.float32
    assert len(draws) == 5
    assert draws[0].nbytes < 5000


@every
def test_params_replay_at_twice_the_resolution(build: Builder) -> None:
    torch.manual_seed(1)
    augmentation = build()
    large = smooth_images(8, 192, 256)
    small = augmentation(F.avg_pool2d(large, 2))
    replayed = F.avg_pool2d(augmentation(large, params=augmentation._params), 2)
    assert (replayed - small).abs().mean() <= 2e-3


@every
def test_manual_seed_decides_the_draws_by_default(build: Builder) -> None:
    images, augmentation = random_images(), build()
    torch.manual_seed(5)
    first, second = augmentation(images), augmentation(images)
    torch.manual_seed(5)
    assert torch.equal(first, augmentation(images))
    assert not torch.equal(first, second)


@every
@pytest.mark.parametrize("p", [1.0, 0.5])
def test_with_own_keys_a_row_depends_on_its_key_alone(build: Builder, p: float) -> None:
    images, keys, augmentation = random_images(12), keys_of(12), build(p=p)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    with still_generator():
        with keyed(augmentation, keys):
            whole = augmentation(images)
        with keyed(augmentation, keys[order]):
            shuffled = augmentation(images[order])
        with keyed(augmentation, keys[3:5]):
            part = augmentation(images[3:5])
    assert torch.equal(shuffled, whole[order])
    assert torch.equal(part, whole[3:5])
    if p < 1:
        assert 0 < (whole == images).all(3).all(2).all(1).sum() < 12


def test_own_keys_reach_through_containers_and_give_the_draws_of_the_families() -> None:
    warp, colour = RandomFieldWarp(), RandomFieldColor()
    sequence = AugmentationSequential(warp, AugmentationSequential(colour), data_keys=["input"])
    with keyed(sequence, keys_of(4)), still_generator():
        sequence(random_images())
    assert torch.equal(warp._params["draws"], FieldWarp(FieldWarpConfig()).draw(keys_of(4)))
    assert torch.equal(colour._params["draws"], FieldColour(FieldColourConfig()).draw(keys_of(4)))
    sequence(random_images(2))  # after it, the keys are random again


def test_own_keys_are_refused_where_they_do_not_fit() -> None:
    augmentation = RandomFieldWarp()
    with pytest.raises(InvalidInput, match="3 keys for a batch of 4"), keyed(augmentation, keys_of(3)):
        augmentation(random_images(4))
    augmentation(random_images(4))  # an error does not leave the keys behind
    twice = AugmentationSequential(RandomFieldWarp(), RandomFieldWarp())
    with pytest.raises(InvalidInput, match="RandomFieldWarp, RandomFieldWarp"), keyed(twice, keys_of(4)):
        pass
    with pytest.raises(InvalidInput, match="found none"), keyed(RandomHorizontalFlip(), keys_of(4)):
        pass


@every
def test_the_same_on_a_batch_is_one_row_in_memory(build: Builder) -> None:
    images = random_images(1).expand(4, -1, -1, -1)
    for augmentation in (build(same_on_batch=True), build(same_on_batch=True, p=0.5)):
        out = augmentation(images)
        assert torch.equal(out, out[:1].expand_as(out))
        assert augmentation._params["draws"].stride(0) == 0
    with keyed(augmentation, keys_of(4)):
        out = augmentation(images)
    assert torch.equal(out, out[:1].expand_as(out))


@every
def test_samples_outside_the_gate_keep_their_bits(build: Builder) -> None:
    images, masks = random_images(), checkerboard()
    sequence = AugmentationSequential(build(p=0.5), data_keys=["input", "mask", "keypoints", "bbox_xyxy"])
    points, boxes = torch.rand(4, 3, 2) * 20, torch.tensor([[[2.0, 3, 9, 12]]]).repeat(4, 1, 1)
    sequence(images, masks, points, boxes)
    params: Any = sequence._params
    params[0].data["batch_prob"] = torch.tensor([1.0, 0.0, 1.0, 0.0])
    out = sequence(images, masks, points, boxes, params=params)
    for before, after in zip((images, masks, points, boxes), out, strict=True):
        assert torch.equal(after[1::2], before[1::2])
    assert not torch.equal(out[0][::2], images[::2])


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_images_keep_their_data_type_and_coordinates_stay_float32(build: Builder, dtype: torch.dtype) -> None:
    augmentation, images = build(), random_images(2, 224, 224).to(dtype)
    out = augmentation(images)
    assert out.dtype == dtype
    exact = augmentation(images.float(), params=augmentation._params)
    assert torch.equal(out, exact.to(dtype))


@every
def test_autocast_does_not_reach_the_coordinates(build: Builder) -> None:
    augmentation, images = build(), random_images(2, 64, 64)
    plain = augmentation(images)
    with torch.autocast("cpu", torch.bfloat16):
        cast = augmentation(images, params=augmentation._params)
    assert torch.equal(plain, cast)


@geometric
@pytest.mark.parametrize("align_corners", [False, True])
def test_masks_are_sampled_where_images_are(build: Builder, align_corners: bool) -> None:
    images = checkerboard().expand(-1, 3, -1, -1)
    nearest = {"resample": "nearest"}
    augmentation = build(align_corners=align_corners)
    sequence = AugmentationSequential(augmentation, data_keys=["input", "mask"])
    _, masks = sequence(images, images)
    assert torch.equal(masks, augmentation(images, params=augmentation._params, **nearest))
    lists = sequence(images, list(images), params=sequence._params)[1]
    assert torch.equal(torch.cat(lists), masks)
    with pytest.raises(InvalidInput, match="choose one of bilinear, nearest"):
        augmentation(images, resample="bicubic")


@pytest.mark.parametrize(
    ("augmentation", "family"),
    [(RandomFieldWarp(), FieldWarp(FieldWarpConfig())), (HaarAffine(), HaarFamily(HaarAffineConfig()))],
)
def test_images_are_those_that_the_family_makes_to_the_bit(augmentation: KeyedAugmentation, family: Geometric) -> None:
    images, frame = random_images(), common_frame([family], 24, 36)
    with keyed(augmentation, keys_of(4)):
        out = augmentation(images)
    assert torch.equal(out, resample(images, compose([family], [family.draw(keys_of(4))], frame), frame))


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_warp_by_constant_fields_is_kornias_affine_transformation(align_corners: bool) -> None:
    config = FieldWarpConfig(
        translate_sd=0.05, rotation_sd=0.3, log_scale_sd=0.2, shear_sd=0.2, form="shear", global_share=1
    )
    augmentation = RandomFieldWarp(config, align_corners=align_corners)
    images = random_images(6, 96, 128)
    with keyed(augmentation, keys_of(6)):
        out = augmentation(images)
    parameters = augmentation._params["draws"].reshape(6, 6, -1)[:, :, 0]
    assert (parameters != 0).all()
    x, y, rotation, log_x, log_y, shear = parameters.unbind(1)
    matrix = get_affine_matrix2d(
        torch.stack([x * 128, y * 96], dim=1),
        torch.tensor([[127 / 2, 95 / 2]]).expand(6, -1),
        torch.stack([log_x, log_y], dim=1).exp(),
        rotation.rad2deg(),
        shear,
        torch.zeros(6),
    )
    expected = warp_affine(images, matrix[:, :2], (96, 128), padding_mode="reflection", align_corners=align_corners)
    assert (out - expected).abs().max() <= 1e-4


def test_fields_of_strength_zero_are_the_identity() -> None:
    images = smooth_images(2, 64, 96)
    still = FieldWarpConfig(translate_sd=0, rotation_sd=0, log_scale_sd=0, shear_sd=0)
    for align_corners in (False, True):
        assert (RandomFieldWarp(still, align_corners=align_corners)(images) - images).abs().max() <= 1e-6
    never = RandomFieldColor(FieldColourConfig(probability=0))(images)
    assert torch.equal(never, images)
    assert never.data_ptr() != images.data_ptr()


def test_colour_leaves_masks_keypoints_and_boxes_alone() -> None:
    images, masks = random_images(), checkerboard()
    points, boxes = torch.rand(4, 3, 2) * 20, torch.tensor([[[2.0, 3, 9, 12]]]).repeat(4, 1, 1)
    sequence = AugmentationSequential(RandomFieldColor(), data_keys=["input", "mask", "keypoints", "bbox_xyxy"])
    out = sequence(images, masks, points, boxes)
    assert not torch.equal(out[0], images)
    for before, after in zip((masks, points, boxes), out[1:], strict=True):
        assert torch.equal(before, after)
    with keyed(sequence, keys_of(4)):
        changed = sequence(images, masks, points, boxes)[0]
    family = FieldColour(FieldColourConfig())
    assert torch.equal(changed, family.apply(images, family.draw(keys_of(4))))
    with pytest.raises(InvalidInput, match="got 1"):
        RandomFieldColor()(masks)


@every
def test_a_single_image_is_taken_with_and_without_a_batch(build: Builder) -> None:
    image = random_images(1)[0]
    assert build()(image).shape == (1, 3, 24, 36)
    assert build(keepdim=True)(image).shape == (3, 24, 36)


def test_the_description_names_the_configuration() -> None:
    assert '"rotation_sd": 0.07' in repr(RandomFieldWarp(FieldWarpConfig(rotation_sd=0.07)))


def compiled_differences() -> tuple[float, float]:
    """Between a compiled warp and the same params without the compiler: params of its own, then handed in."""
    augmentation, images = RandomFieldWarp(), random_images(2, 64, 64)
    compiled = torch.compile(augmentation, fullgraph=True, dynamic=False)
    out = compiled(images)
    own = (out - augmentation(images, params=augmentation._params)).abs().max()
    params = {"draws": FieldWarp(FieldWarpConfig()).draw(keys_of(2)), "batch_prob": torch.ones(2)}
    given = (compiled(images, params=dict(params)) - augmentation(images, params=dict(params))).abs().max()
    return float(own), float(given)


@pytest.mark.slow
def test_the_warp_compiles_into_one_graph(plain_process: ProcessPoolExecutor) -> None:
    assert max(plain_process.submit(compiled_differences).result()) <= 1e-4
