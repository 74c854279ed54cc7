"""Boxes followed through frames by the points in them: median flow (Kalal, Mikolajczyk, Matas 2010) on moving points.

A median over all points of a square would follow the background, which fills most of a square around a walker; the
points followed here are those that moved when the box was found.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from viewfold.pipeline.video.boxes import Box, square
from viewfold.pipeline.video.points import followed

_ASTRAY_PX, _ASTRAY_RATIO = 1.5, 0.5
"""A point is given up when its step differs from the box's by more than so many pixels and so much of that step."""
_LEAST_KEPT, _LEAST_POINTS = 0.15, 4
"""A box is lost when fewer of its points are left."""


@dataclass(eq=False)
class Followed:
    """A box on its way through the frames."""

    boxes: list[Box]
    """One for each frame in which it was found, the first one given."""
    start: NDArray[np.float32]
    """`[point, (x, y)]` in the first frame."""
    now: NDArray[np.float32]
    """The same in the last."""
    kept: NDArray[np.bool_]
    """Which points are still followed."""

    @property
    def lost(self) -> bool:
        """Whether too few points are left to say where the box is."""
        return int(self.kept.sum()) < max(_LEAST_POINTS, _LEAST_KEPT * len(self.kept))

    def step(self, there: NDArray[np.float32], found: NDArray[np.bool_]) -> None:
        """Go on to the next frame, where the points are `there` as far as they were `found`."""
        self.kept = self.kept & found
        if self.kept.any():
            steps = there - self.now
            median = np.median(steps[self.kept], axis=0)
            allowed = max(_ASTRAY_PX, _ASTRAY_RATIO * float(np.linalg.norm(median)))
            self.kept &= np.linalg.norm(steps - median, axis=1) <= allowed
        self.now = there
        if not self.lost:
            self.boxes.append(_moved(self.boxes[0], self.start[self.kept], there[self.kept]))


def follow(
    frames: Sequence[NDArray[np.uint8]], boxes: Sequence[Box], points: Sequence[NDArray[np.float32]]
) -> list[Followed]:
    """Follow each box by its `points` from the first frame `[height, width]` to the last; a lost one stops earlier.

    A box's place and size always come from the first frame's points, so no error adds up over the frames.
    """
    tracks = [Followed([box], own, own, np.ones(len(own), dtype=bool)) for box, own in zip(boxes, points, strict=True)]
    for before, after in pairwise(frames):
        going = [track for track in tracks if not track.lost]
        if not going:
            break
        there, found = followed(before, after, np.concatenate([track.now for track in going]))
        ends = np.cumsum([len(track.now) for track in going])[:-1]
        for track, place, seen in zip(going, np.split(there, ends), np.split(found, ends), strict=True):
            track.step(place, seen)
    return tracks


def _moved(box: Box, start: NDArray[np.float32], now: NDArray[np.float32]) -> Box:
    """The box where its points are now: their median moves it, the median ratio of their distances scales it."""
    first, second = np.triu_indices(len(start), k=1)
    before = np.linalg.norm(start[first] - start[second], axis=1)
    after = np.linalg.norm(now[first] - now[second], axis=1)
    scale = float(np.median(after / np.maximum(before, 1e-6)))
    x, y = (np.median(now, axis=0) + scale * (np.array(box.centre) - np.median(start, axis=0))).tolist()
    return square((x, y), scale * box.width)
