"""Frames of a video, one after another: decoded by OpenCV, which turns them as the file says."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from viewfold.errors import InvalidInput
from viewfold.pipeline.video.opencv import opencv


class Frame(NamedTuple):
    """One frame."""

    number: int
    """Counted from 1, as the MOT challenge counts."""
    rgb: NDArray[np.uint8]
    """`[height, width, 3]`."""


def read_frames(path: Path) -> Iterator[Frame]:
    """The frames in their order, one in memory at a time; ends at the first that cannot be decoded.

    Raises:
        InvalidInput: no such file, or one of which no frame can be decoded.
    """
    cv2 = opencv()
    with _opened(path) as video:
        number = 0
        while True:
            decoded, bgr = video.read()
            if not decoded:
                break
            number += 1
            yield Frame(number, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
    if not number:
        raise InvalidInput(f"{path}: not a video, or of a kind that OpenCV cannot decode; `ffmpeg -i` may convert it")


def stated_frames(path: Path) -> int:
    """How many frames the file says that it has; 0 where it does not say. Some files are wrong."""
    with _opened(path) as video:
        return max(0, int(video.get(opencv().CAP_PROP_FRAME_COUNT)))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise InvalidInput(f"{path}: no such file")
    cv2 = opencv()
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        yield video
    finally:
        video.release()
