"""Square windows that hold what moves in a frame."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from viewfold.pipeline.video.boxes import Box, inside_share, moved_inside, square
from viewfold.pipeline.video.points import CELL_PX

_SURROUND = 0.2
"""Width of the ring around a window in which nothing should move, in its sides."""
_AGREEING = 0.6
"""Of the moving points of a window, the share that must move in nearly the same way: one thing, not a crowd."""
_LEAST_INSIDE = 0.85
"""Share of the square around a thing that must lie in the frame: what is just coming in is not all there."""
_UNLIKE = 0.5
"""Points whose motions differ from the median by less than this part of it move in nearly the same way."""

Counts = NDArray[np.int64]


class Window(NamedTuple):
    """A window, and the points that move in it in nearly the same way."""

    box: Box
    points: NDArray[np.int64]


def best_windows(
    points: NDArray[np.float32],
    motion: NDArray[np.float32],
    moving: NDArray[np.bool_],
    *,
    shape: tuple[int, int],
    sides: Sequence[float],
    min_share: float,
    min_points: int,
) -> list[Window]:
    """Windows that do not overlap, best first: each holds many moving points, and the ring around it few.

    A window's worth is the number of moving points in it, less those in the ring, over the root of its side: among
    windows of one side the one that holds most, among several sides the smallest that holds nearly all of a thing.
    `sides` are parts of the shorter side of a frame of this `shape`; `points` and `motion` are `[point, (x, y)]` in
    pixels. Of a window's points at least `min_share` move, and at least `min_points` in nearly the same way.
    """
    cells = [max(2, round(side * min(shape) / CELL_PX)) for side in sorted(sides)]
    all_points, moving_points = _sums(points, shape), _sums(points[moving], shape)
    worth = [_worth(all_points, moving_points, side, min_share=min_share, min_points=min_points) for side in cells]
    chosen: list[Window] = []
    while (best := _best(worth)) is not None:
        number, row, column = best
        side = cells[number]
        box = Box(column * CELL_PX, row * CELL_PX, side * CELL_PX, side * CELL_PX)
        inside = np.flatnonzero(moving & _inside(points, box))
        window = _agreeing(box, points, motion, inside, min_points=min_points)
        if window is not None and inside_share(window.box, shape) >= _LEAST_INSIDE:
            chosen.append(Window(moved_inside(window.box, shape), window.points))
        for other, values in zip(cells, worth, strict=True):
            if window is not None or other == side:  # smaller windows in a crowd may still hold one thing each
                values[max(0, row - other + 1) : row + side, max(0, column - other + 1) : column + side] = -np.inf
    return chosen


def _sums(points: NDArray[np.float32], shape: tuple[int, int]) -> Counts:
    """`[row + 1, column + 1]`: how many points lie in the cells above and left of each corner of a cell."""
    rows, columns = (-(-side // CELL_PX) for side in shape)
    cells = (points // CELL_PX).astype(np.int64)
    counts = np.bincount(cells[:, 1] * columns + cells[:, 0], minlength=rows * columns).reshape(rows, columns)
    return np.pad(counts.cumsum(0).cumsum(1), ((1, 0), (1, 0)))


def _worth(all_points: Counts, moving: Counts, side: int, *, min_share: float, min_points: int) -> NDArray[np.float64]:
    """Of each window of `side` cells, by the row and column of its first cell; -inf where it may not be chosen."""
    rows, columns = (length - side for length in all_points.shape)
    if rows <= 0 or columns <= 0:
        return np.zeros((0, 0))
    inside, textured = (_counted(sums, side, 0) for sums in (moving, all_points))
    ring = _counted(moving, side, max(1, round(_SURROUND * side))) - inside
    allowed = (inside >= min_points) & (inside >= min_share * textured)
    return np.where(allowed, (inside - ring) / np.sqrt(side), -np.inf)


def _counted(sums: Counts, side: int, margin: int) -> Counts:
    """Points in each window of `side` cells, and in `margin` cells around it."""
    last_row, last_column = (length - 1 for length in sums.shape)
    row, column = np.arange(last_row - side + 1), np.arange(last_column - side + 1)
    top, bottom = (row - margin).clip(0)[:, None], (row + side + margin).clip(max=last_row)[:, None]
    left, right = (column - margin).clip(0), (column + side + margin).clip(max=last_column)
    counts: Counts = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return counts


def _best(worth: Sequence[NDArray[np.float64]]) -> tuple[int, int, int] | None:
    """Number of the side, row and column of the window of the highest positive worth; the smaller of two equal ones."""
    best, place = 0.0, None
    for number, values in enumerate(worth):
        if values.size and values.max() > best:
            row, column = np.unravel_index(values.argmax(), values.shape)
            best, place = float(values[row, column]), (number, int(row), int(column))
    return place


def _inside(points: NDArray[np.float32], box: Box) -> NDArray[np.bool_]:
    near = points - [box.left, box.top]
    inside: NDArray[np.bool_] = np.all((near >= 0) & (near < [box.width, box.height]), axis=1)
    return inside


def _agreeing(
    box: Box,
    points: NDArray[np.float32],
    motion: NDArray[np.float32],
    inside: NDArray[np.int64],
    *,
    min_points: int,
) -> Window | None:
    """The window, its middle moved to that of the points that move as most of them do; None where too few agree."""
    median = np.median(motion[inside], axis=0)
    agree = np.linalg.norm(motion[inside] - median, axis=1) < _UNLIKE * np.linalg.norm(median)
    kept = inside[agree]
    if len(kept) < max(min_points, _AGREEING * len(inside)):
        return None
    x, y = np.percentile(points[kept], [10, 90], axis=0).mean(axis=0).tolist()  # one stray point moves no box
    return Window(square((x, y), box.width), kept)
