"""Robust crops: of all crops of a picture take the one whose own pixels score highest, so that it moves with them.

The idea of RICS (arXiv:2404.07153); the score is ours. After a shift of the picture the same crop wins wherever both
windows hold it, and a network that is shown the winner answers the same. Everything is integer arithmetic on the
stored uint8 pixels: run it before any resizing, which would give a shifted picture other numbers.
"""

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from viewfold.errors import InvalidInput
from viewfold.keyed import key64, mixed, uniforms

_PATCH = 8
"""Side of the patch in the middle of a crop that its score is taken from."""
_LUMA = (77, 150, 29)
"""256 times the weights of red, green and blue."""
_KERNEL = (uniforms([key64("robust crop kernel")], _PATCH**2) * 255).astype(np.int32).reshape(_PATCH, _PATCH) - 127
"""Fixed random integers in -127..127: with luma below 2^16 a response stays below 2^29."""
_CHUNK_PIXELS = 2**20
"""Pixels that are scored together."""

Hashes = NDArray[np.uint64]


def robust_crop(
    images: UInt8[Tensor, "image 3 height width"], crop: int, *, cyclic: bool = False
) -> UInt8[Tensor, "image 3 {crop} {crop}"]:
    """The `crop` x `crop` pixels that `select_crop` chooses; with `cyclic`, crops go on at the opposite border."""
    top, left = select_crop(images, crop, cyclic=cyclic).unbind(1)
    height, width = images.shape[2:]
    inside = torch.arange(crop, device=images.device)
    rows = (top[:, None] + inside) % height
    columns = (left[:, None] + inside) % width
    which = torch.arange(len(images), device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2).contiguous()


def select_crop(
    images: UInt8[Tensor, "image 3 height width"], crop: int, *, cyclic: bool = False
) -> Int64[Tensor, "image 2"]:
    """Top and left of the crop with the highest score in each image, of all that lie in it.

    The score is a hash of the response of the crop's middle 8 x 8 patch to a fixed random kernel on integer luma. Where
    that patch is flat, and where two scores are equal, a hash of all the crop's pixels decides; where it stands never
    does, so between crops with the same pixels the choice is free. With `cyclic` the image is a torus and all
    `height` x `width` crops compete: a cyclic shift of the image then never changes the chosen pixels.

    Raises:
        InvalidInput: `crop` is below 8 or larger than the images.
    """
    height, width = images.shape[2:]
    if not _PATCH <= crop <= min(height, width):
        raise InvalidInput(
            f"a robust crop of {crop} px does not fit images of {height} x {width}: "
            f"choose {_PATCH}..{min(height, width)}"
        )
    pixels = images.cpu().numpy()
    step = max(1, _CHUNK_PIXELS // (height * width))
    chosen = [_select(pixels[first : first + step], crop, cyclic) for first in range(0, len(pixels), step)]
    found = np.concatenate(chosen) if chosen else np.empty((0, 2), dtype=np.int64)
    return torch.from_numpy(found).to(images.device)


def same_crop_chance(size: tuple[int, int], crop: int, shift: tuple[int, int]) -> float:
    """Probability that windows of `size` (height, width), `shift` apart (down, right), choose the same crop.

    S / (2 N_y N_x - S) where each window holds N_y x N_x crops and both hold S of them: of all crops in either, the
    best one must be in both. Exact for exchangeable scores, as on white noise.
    """
    down, right = (side - crop + 1 for side in size)
    shared = max(0, down - abs(shift[0])) * max(0, right - abs(shift[1]))
    return shared / (2 * down * right - shared)


def all_shifts_chance(size: tuple[int, int], crop: int) -> float:
    """Probability that a window and its eight neighbours at one pixel all choose one crop: (N - 2)^2 / (N + 2)^2."""
    down, right = (side - crop + 1 for side in size)
    return max(0, down - 2) * max(0, right - 2) / ((down + 2) * (right + 2))


def _select(pixels: NDArray[np.uint8], crop: int, cyclic: bool) -> NDArray[np.int64]:
    if cyclic:
        pixels = np.pad(pixels, ((0, 0), (0, 0), (0, crop - 1), (0, crop - 1)), mode="wrap")
    colours = pixels.astype(np.int32)
    red, green, blue = colours[:, 0], colours[:, 1], colours[:, 2]
    luma = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    whole = _window_hashes(mixed((red << 16 | green << 8 | blue).astype(np.uint64)), crop)
    num, rows, columns = whole.shape
    first = (crop - _PATCH) // 2
    middle = luma[:, first : first + rows + _PATCH - 1, first : first + columns + _PATCH - 1]
    score = mixed(_responses(middle).astype(np.int64).view(np.uint64))
    score = np.where(_is_flat(middle), mixed(score ^ whole), score).reshape(num, -1)
    best = score == score.max(axis=1, keepdims=True)
    # Odd, so that no crop that tied scores as low as one that lost.
    decided = np.where(best, whole.reshape(num, -1) | np.uint64(1), np.uint64(0)).argmax(axis=1)
    return np.stack(np.divmod(decided, columns), axis=1)


def _responses(luma: NDArray[np.int32]) -> NDArray[np.int32]:
    """Sum of kernel times luma over the 8 x 8 patch that begins at each place, exact."""
    rows, columns = (side - _PATCH + 1 for side in luma.shape[1:])
    total = np.zeros((len(luma), rows, columns), dtype=np.int32)
    for (down, right), weight in np.ndenumerate(_KERNEL):
        total += weight * luma[:, down : down + rows, right : right + columns]
    return total


def _is_flat(luma: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Whether the 8 x 8 patch that begins at each place has one luma throughout."""
    low = high = luma
    for axis in (1, 2):  # one axis at a time, in whole rows of memory: twice as fast as reducing 8 x 8 views
        places = luma.shape[axis] - _PATCH + 1
        at = [(slice(None),) * axis + (slice(i, i + places),) for i in range(_PATCH)]
        low = np.minimum.reduce([low[place] for place in at])
        high = np.maximum.reduce([high[place] for place in at])
    return np.equal(low, high)


def _window_hashes(values: Hashes, size: int) -> Hashes:
    """A number for the `size` x `size` values that begin at each place, the same wherever they stand."""
    return mixed(_rolled(_rolled(values, size, 1, "robust crop rows"), size, 2, "robust crop columns"))


def _rolled(values: Hashes, size: int, axis: int, name: str) -> Hashes:
    """Sum of value_(i + k) base^k over k < size, modulo 2^64, at each i along the axis.

    A difference of running sums of value_j base^j, divided by base^i: an odd base has an inverse modulo 2^64.
    """
    base = key64(name) // 8 * 8 + 5  # 5 modulo 8: of the largest order, 2^62
    length = values.shape[axis]
    shape = (-1, 1) if axis == 1 else (-1,)
    sums = np.cumsum(values * _powers(base, length).reshape(shape), axis=axis, dtype=np.uint64)
    before = np.insert(sums, 0, 0, axis=axis)
    places = np.arange(length - size + 1)
    windows = before.take(places + size, axis=axis) - before.take(places, axis=axis)
    return windows * _powers(pow(base, -1, 2**64), len(places)).reshape(shape)


def _powers(base: int, number: int) -> Hashes:
    powers = [1]
    for _ in range(number - 1):
        powers.append(powers[-1] * base % 2**64)
    return np.array(powers, dtype=np.uint64)
