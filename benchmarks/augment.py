"""How fast views are made: beside Kornia and torchvision on the same work, and beside what memory allows.

One core, float32, batches of 32 at 128 and 224 pixels; both sides are called as users call them, drawing included. On
a machine with a GPU the compiled policy is measured there as well. The last line printed is the record, as JSON.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import (
    Comparison,
    Label,
    Row,
    compare,
    compared,
    isolated,
    lower,
    run_suite,
    seconds_of,
    worst_case,
)
from viewfold.augment import (
    FieldColour,
    FieldColourConfig,
    FieldMediumPolicy,
    FieldWarpConfig,
    PolicyConfig,
    Transform,
    draw_view,
    make_views,
    render,
)
from viewfold.augment.field_warp import FieldWarp
from viewfold.values import Batch

BATCH = 32
SIZES = (128, 224)
SIGMA_RATIO = (0.0005, 0.009)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Mode = Literal["exact", "yiq"]
_CASE = "{size} px, {mode} colours"
LABELS = {
    "views_vs_kornia_elastic_jitter": Label(
        what="warp and colour fields, one view",
        beside="Kornia's `RandomElasticTransform` and `ColorJiggle`",
        case=_CASE,
        why="of our time the gather of `grid_sample`, the interpolation of the map and some forty passes over planes "
        "in the cache are what is left; Kornia's depends on what its large fresh buffers cost. `yiq` saves a "
        "conversion, and with fields its sines and cosines at every pixel cost what that saves",
    ),
    "policy_vs_kornia_simclr": Label(
        what="`field-medium`, two views with labels", beside="Kornia's SimCLR chain with the warp added", case=_CASE
    ),
    "policy_vs_torchvision": Label(
        what="`field-medium`, two views with labels",
        beside="torchvision v2 with the same operations, image by image",
        case=_CASE + ", {input} in",
    ),
    "multiple_of_memory_floor": Label(
        what="a view of `field-medium`",
        beside="reading its bytes and writing its pixels at the speed of a large copy",
        case=_CASE + ", {device}",
        less=True,
    ),
}


class WarpAndColour(PolicyConfig):
    """The two random-field families alone, on every image."""

    def __init__(self, mode: Mode) -> None:
        self._families = (FieldWarp(FieldWarpConfig()), FieldColour(FieldColourConfig(mode=mode)))

    def transforms(self) -> tuple[Transform, ...]:
        """Warp, colour."""
        return self._families


def images_of(size: int, device: str = "cpu", num: int = BATCH) -> Tensor:
    """uint8 images of smooth content, as photographs have: `[num, 3, size, size]`."""
    coarse = torch.rand(num, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)
    return smooth.mul(255).to(torch.uint8).to(device)


def batch_of(images: Tensor) -> Batch:
    """Those images as the stream would hand them over."""
    none = torch.zeros(len(images), dtype=torch.int64)
    return Batch(
        images=images[None],
        keys=[f"shard/{i}" for i in range(len(images))],
        rows=none,
        epochs=none,
        members=none[None],
        label=none,
        domain=none,
        group=none,
        latents=None,
    )


def normalise(images: Tensor) -> Tensor:
    """Minus the mean, over the standard deviation."""
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (MEAN, STD))
    return (images - mean) / std


def policy(mode: Mode = "exact") -> FieldMediumPolicy:
    """Crop, mirror, warp .5, colours .8, grey .2, blur .5."""
    medium = FieldMediumPolicy()
    return replace(medium, colour=replace(medium.colour, mode=mode))


def our_policy(images: Tensor, mode: Mode, *, compiled: bool = False) -> Callable[[], object]:
    """Both views of a batch, with their labels, normalised: all that a training step does."""
    batch, config = batch_of(images), policy(mode)
    return lambda: normalise(
        make_views(batch, config, seed=0, device=images.device, compiled=compiled).images.flatten(0, 1)
    )


def kernel_of(size: int) -> tuple[int, tuple[float, float]]:
    """Width of a Gaussian kernel of four standard deviations, and the range of these, in pixels."""
    low, high = (ratio * size for ratio in SIGMA_RATIO)
    return 2 * int(np.ceil(4 * high)) + 1, (low, high)


def views_vs_kornia(size: int, mode: Mode, repeats: int) -> Comparison:
    """Warp and colour fields against `RandomElasticTransform` and `ColorJiggle`, all with probability 1."""
    import kornia.augmentation as K

    stored = images_of(size)
    images = stored.float() / 255
    ours = WarpAndColour(mode)
    keys = [f"shard/{i}" for i in range(BATCH)]
    peer = K.AugmentationSequential(
        K.RandomElasticTransform(p=1.0), K.ColorJiggle(0.4, 0.4, 0.4, 0.1, p=1.0), data_keys=["input"]
    )

    def view() -> Tensor:
        return render(ours, stored, draw_view(ours, seed=0, epochs=[0] * BATCH, samples=keys, view=0))

    return compare(view, lambda: peer(images), repeats=repeats)


def policy_vs_kornia(size: int, mode: Mode, repeats: int) -> Comparison:
    """Both views against Kornia's SimCLR chain with the elastic warp added, called once for each view."""
    import kornia.augmentation as K

    stored = images_of(size)
    images = stored.float() / 255
    kernel, sigma = kernel_of(size)
    peer = K.AugmentationSequential(
        K.RandomResizedCrop((size, size), scale=(0.2, 1.0)),
        K.RandomHorizontalFlip(p=0.5),
        K.RandomElasticTransform(p=0.5),
        K.ColorJiggle(0.4, 0.4, 0.4, 0.1, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((kernel, kernel), sigma, p=0.5),
        K.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
        data_keys=["input"],
    )
    return compare(our_policy(stored, mode), lambda: (peer(images), peer(images)), repeats=repeats)


def policy_vs_torchvision(size: int, repeats: int, uint8: bool) -> Comparison:
    """Both views against torchvision v2 on tensors, image by image, for it draws once for each call."""
    from torchvision.transforms import v2

    stored = images_of(size)
    images = stored if uint8 else stored.float() / 255
    kernel, sigma = kernel_of(size)
    peer = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.2, 1.0)),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomApply([v2.ElasticTransform()], 0.5),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(kernel, sigma)], 0.5),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(MEAN), list(STD)),
        ]
    )

    def both() -> list[Tensor]:
        return [torch.stack([peer(image) for image in images]) for _ in range(2)]

    return compare(our_policy(stored, "exact"), both, repeats=repeats)


def memory_floor(images: Tensor, *, bytes_per_value: int) -> tuple[float, float]:
    """Seconds to read these uint8 images and write a view of each at a large copy's bandwidth, and that in GB/s."""
    source = torch.empty(2**26, device=images.device)
    target = torch.empty_like(source)
    seconds = np.median([seconds_of(lambda: target.copy_(source)) for _ in range(12)][2:])
    bandwidth = 2 * source.nbytes / seconds
    return images.numel() * (1 + bytes_per_value) / bandwidth, bandwidth / 1e9


def floor_row(size: int, mode: Mode, repeats: int, device: str) -> Row:
    """Time of a view as a multiple of reading it as uint8 and writing it: float32 on a CPU, bfloat16 on a GPU.

    A GPU renders 256 images at a time with the compiled policy.
    """
    on_gpu = device != "cpu"
    images = images_of(size, device, 256 if on_gpu else BATCH)
    work = our_policy(images, mode, compiled=on_gpu)
    work()
    floor_s, bandwidth = memory_floor(images, bytes_per_value=2 if on_gpu else 4)
    view_s = float(np.median([seconds_of(work) for _ in range(repeats)])) / 2
    return {
        "name": "multiple_of_memory_floor",
        "size": size,
        "mode": mode,
        "device": device,
        "value": view_s / floor_s,
        "view_us": view_s / len(images) * 1e6,
        "floor_us": floor_s / len(images) * 1e6,
        "bandwidth_gb_s": bandwidth,
        **({"target": 3.0, "met": view_s / floor_s <= 3.0} if on_gpu else {}),
    }


def rows(repeats: int) -> Iterator[Row]:
    """All measurements, one by one."""
    modes: tuple[Mode, ...] = ("exact", "yiq")
    for size in SIZES:
        for mode in modes:
            against = isolated(views_vs_kornia, size, mode, repeats)
            yield compared("views_vs_kornia_elastic_jitter", 10.0, against, size=size, mode=mode)
            against = isolated(policy_vs_kornia, size, mode, repeats)
            yield compared("policy_vs_kornia_simclr", 5.0, against, size=size, mode=mode)
        for uint8 in (False, True):
            against = isolated(policy_vs_torchvision, size, repeats, uint8)
            kind = "uint8" if uint8 else "float32"
            yield compared("policy_vs_torchvision", 2.0, against, size=size, mode="exact", input=kind)
        yield isolated(floor_row, size, "exact", repeats, "cpu")
        if torch.cuda.is_available():
            for mode in modes:
                yield isolated(floor_row, size, mode, repeats, "cuda")


def facts(measured: list[Row]) -> dict[str, Any]:
    """The worst case on the CPU, and what one must know to read the rows."""
    on_cpu = [row for row in measured if row["device"] == "cpu"]
    return {
        "worst_case": worst_case(on_cpu, lower_is_better=lower(LABELS)),
        "notes": [
            "batches of 32 images on one core, drawing included; ours takes the stored uint8, Kornia float32",
            "mode yiq rotates hue in a linear space: another operation than the peers', which rotate it in HSV",
            "our colours vary over the image, the peers' do not; our rows include labels and the fold fraction",
        ],
    }


if __name__ == "__main__":
    packages = ("kornia", "torchvision")
    run_suite("augment", rows, about=__doc__, repeats=15, packages=packages, labels=LABELS, facts=facts)
