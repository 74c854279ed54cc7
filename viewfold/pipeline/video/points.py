"""Points of a frame and where they are in another one: corners, and the pyramidal Lucas-Kanade method both ways."""

import numpy as np
from numpy.typing import NDArray

from viewfold.pipeline.video.opencv import opencv

CELL_PX = 4
"""At most one point is taken of each square of this side, the best corner of it."""
BORDER_PX = 4
"""No point is taken nearer to the border: what is beyond it cannot be compared."""

_LEAST_EIGENVALUE = 4e-4
"""Of the gradients' covariance around a point; below it lie plain walls and the noise of compression."""
_WINDOW_PX, _LEVELS = 15, 3
_RETURN_PX = 1.0
"""A point that, followed there and back, ends farther from where it began than this was not followed."""


def analysed(rgb: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    """`[height, width, 3]` to grey levels `[height, width]`, scaled down to this height where it is higher."""
    cv2 = opencv()
    grey: NDArray[np.uint8] = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    if len(grey) > height:
        width = max(1, round(grey.shape[1] * height / len(grey)))
        grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
    return grey


def corners(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`[point, (x, y)]`: where grey levels differ in every direction, at most one in each cell, row by row."""
    strength = opencv().cornerMinEigenVal(grey, 5, ksize=3)
    rows, columns = (side // CELL_PX for side in grey.shape)
    cells = strength[: rows * CELL_PX, : columns * CELL_PX].reshape(rows, CELL_PX, columns, CELL_PX)
    cells = cells.transpose(0, 2, 1, 3).reshape(rows, columns, CELL_PX**2)
    best, found = cells.argmax(2), cells.max(2) > _LEAST_EIGENVALUE
    row, column = np.nonzero(found)
    inside = best[row, column]
    points = np.stack([column * CELL_PX + inside % CELL_PX, row * CELL_PX + inside // CELL_PX], axis=1)
    height, width = grey.shape
    kept = ((points >= BORDER_PX) & (points < [width - BORDER_PX, height - BORDER_PX])).all(axis=1)
    return points[kept].astype(np.float32)


def followed(
    grey: NDArray[np.uint8], after: NDArray[np.uint8], points: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Where `points` of `grey` are in `after`, and which of them were found: followed back they return."""
    if not len(points):
        return points, np.zeros(0, dtype=bool)
    there, found = _flow(grey, after, points)
    back, returned = _flow(after, grey, there)
    near = np.linalg.norm(back - points, axis=1) < _RETURN_PX
    height, width = after.shape
    within = ((there >= 0) & (there <= [width - 1, height - 1])).all(axis=1)
    return there, found & returned & near & within


def _flow(
    grey: NDArray[np.uint8], after: NDArray[np.uint8], points: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    cv2 = opencv()
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.02)
    there, found, _ = cv2.calcOpticalFlowPyrLK(
        grey, after, points[:, None], None, winSize=(_WINDOW_PX, _WINDOW_PX), maxLevel=_LEVELS, criteria=stop
    )
    return there[:, 0], found[:, 0].astype(bool)
