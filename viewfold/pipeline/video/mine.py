"""Tracks found in a video: windows that hold what moves, followed to the last frame and back."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from viewfold.pipeline.video.boxes import Box, inside_share, overlap
from viewfold.pipeline.video.config import VideoConfig
from viewfold.pipeline.video.follow import Followed, follow
from viewfold.pipeline.video.frames import Frame
from viewfold.pipeline.video.points import analysed, corners, followed
from viewfold.pipeline.video.track import Track, contrast, cut, evenly
from viewfold.pipeline.video.windows import Window, best_windows

_NUM_WATCHED = 400
"""Points by which it is told, frame by frame, whether the camera moved."""
_LEAST_INSIDE = 0.9
"""Share of a box that must lie in the frame."""
_MOST_SCALED = 2.0
"""A box that grew or shrank by more than this came to rest on a part of the thing, or on something else."""
_SAME = 0.1
"""A window that overlaps a box being followed by more than this is the same thing."""


class _Seen(NamedTuple):
    """A frame being held."""

    frame: Frame
    grey: NDArray[np.uint8]
    moving_share: float
    """Of the points of the frame before, 0 for the first frame."""


def mine(frames: Iterable[Frame], config: VideoConfig, tally: Counter[str]) -> Iterator[Track]:
    """The tracks of a video, in the order in which they begin; `tally` counts the others by `REASONS`.

    At most `config.frames` frames are in memory.
    """
    held: deque[_Seen] = deque(maxlen=config.frames)
    taken: list[tuple[int, list[Box]]] = []
    number = 0
    for frame in frames:
        grey = analysed(frame.rgb, config.analysed_px)
        share = _moving_share(held[-1].grey, grey, config) if held else 0.0
        held.append(_Seen(frame, grey, share))
        first = held[0].frame.number
        if len(held) < config.frames or (first - 1) % config.every:
            continue
        taken = [(begin, boxes) for begin, boxes in taken if first < begin + len(boxes)]
        busy = [boxes[first - begin] for begin, boxes in taken]
        for boxes in _span([seen.grey for seen in held], [seen.moving_share for seen in held], busy, config, tally):
            track = _track(f"{number:05d}", held, boxes, config)
            if contrast(track.patches) < config.min_contrast:
                tally["blank"] += 1
                continue
            taken.append((first, boxes))
            number += 1
            yield track


def _moving_share(before: NDArray[np.uint8], grey: NDArray[np.uint8], config: VideoConfig) -> float:
    points = corners(before)
    points = points[evenly(len(points), _NUM_WATCHED)] if len(points) else points
    there, found = followed(before, grey, points)
    if not found.any():
        return 0.0
    return float((np.linalg.norm(there - points, axis=1)[found] > config.moving_px).mean())


def _span(
    greys: Sequence[NDArray[np.uint8]],
    shares: Sequence[float],
    busy: Sequence[Box],
    config: VideoConfig,
    tally: Counter[str],
) -> list[list[Box]]:
    """The boxes of each thing that was followed through these frames and back."""
    if max(shares[1], float(np.median(shares[1:]))) > config.max_moving:
        tally["camera"] += 1
        return []
    if shares[1] < config.min_moving:
        tally["noise"] += 1
        return []
    points, windows = _windows(greys[0], greys[1], config)
    windows = [one for one in windows if all(overlap(one.box, box) <= _SAME for box in busy)]
    if not windows:
        if not busy:
            tally["still"] += 1
        return []
    forth = follow(greys, [one.box for one in windows], [points[one.points] for one in windows])
    for track in forth:
        if track.lost:
            tally["left" if inside_share(track.boxes[-1], greys[0].shape) < _LEAST_INSIDE else "lost"] += 1
    arrived = [track for track in forth if not track.lost]
    back = follow(greys[::-1], [track.boxes[-1] for track in arrived], [track.now[track.kept] for track in arrived])
    kept = []
    for there, returned in zip(arrived, back, strict=True):
        reason = _fault(there, returned, greys[0].shape, config)
        if reason:
            tally[reason] += 1
        else:
            kept.append(there.boxes)
    return kept


def _windows(
    grey: NDArray[np.uint8], after: NDArray[np.uint8], config: VideoConfig
) -> tuple[NDArray[np.float32], list[Window]]:
    points = corners(grey)
    there, found = followed(grey, after, points)
    points, motion = points[found], (there - points)[found]
    return points, best_windows(
        points,
        motion,
        np.linalg.norm(motion, axis=1) > config.moving_px,
        shape=grey.shape,
        sides=config.windows,
        min_share=config.min_share,
        min_points=config.min_points,
    )


def _fault(there: Followed, returned: Followed, shape: tuple[int, int], config: VideoConfig) -> str:
    """Why a box that was followed to the last frame is not kept; empty if it is."""
    if min(inside_share(box, shape) for box in there.boxes) < _LEAST_INSIDE:
        return "left"
    if not 1 / _MOST_SCALED <= there.boxes[-1].width / there.boxes[0].width <= _MOST_SCALED:
        return "drifted"
    if returned.lost or overlap(returned.boxes[-1], there.boxes[0]) < config.min_returned:
        return "drifted"
    centres = np.array([box.centre for box in there.boxes])
    travel = np.linalg.norm(centres - centres[0], axis=1).max()
    if travel < config.min_travel * there.boxes[0].width:
        return "hardly moved"
    return ""


def _track(name: str, held: Sequence[_Seen], boxes: Sequence[Box], config: VideoConfig) -> Track:
    """The patches of a track, cut from the frames at their full size."""
    places = evenly(len(boxes), config.images_per_track)
    scale = held[0].frame.rgb.shape[0] / held[0].grey.shape[0]
    full = [boxes[place].scaled(scale) for place in places]
    frames = [held[place].frame for place in places]
    patches = [cut(frame.rgb, box, config.size) for frame, box in zip(frames, full, strict=True)]
    return Track(name, [frame.number for frame in frames], full, patches)
