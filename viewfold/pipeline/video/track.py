"""A track: one thing in several frames of a video."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from viewfold.pipeline.video.boxes import Box, moved_inside, square


class Track(NamedTuple):
    """Patches of one thing, in the order of time."""

    name: str
    """Unique in its video."""
    frames: list[int]
    """In which frame each was seen, counted from 1."""
    boxes: list[Box]
    """Where, in pixels of the video."""
    patches: list[NDArray[np.uint8]]
    """`[size, size, 3]`."""


def evenly(length: int, num: int) -> list[int]:
    """`num` of 0..length-1, as far apart as can be, first and last among them; all where there are no more."""
    places: list[int] = np.linspace(0, length - 1, min(num, length)).round().astype(int).tolist()
    return places


def cut(rgb: NDArray[np.uint8], box: Box, size: int) -> NDArray[np.uint8]:
    """The square around a box, moved into the frame, scaled to `size` (bicubic, antialiased).

    Where the frame has no room for the square, the longer side of what there is of it is squeezed.
    """
    height, width, _ = rgb.shape
    area = moved_inside(square(box.centre, max(box.width, box.height)), (height, width))
    corners = (area.left, area.top, area.left + area.width, area.top + area.height)
    picture = Image.fromarray(rgb).resize((size, size), Image.Resampling.BICUBIC, box=corners)
    return np.asarray(picture)


def contrast(patches: Sequence[NDArray[np.uint8]]) -> float:
    """Standard deviation of the grey levels, 0..127.5, of the patch that has least."""
    return min(float(patch.mean(axis=2).std()) for patch in patches)
