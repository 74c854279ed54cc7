"""Boxes in a frame."""

from typing import NamedTuple


class Box(NamedTuple):
    """Pixels from the frame's left upper corner, which is (0, 0)."""

    left: float
    top: float
    width: float
    height: float

    @property
    def centre(self) -> tuple[float, float]:
        """Its middle, x and y."""
        return self.left + self.width / 2, self.top + self.height / 2

    def scaled(self, factor: float) -> "Box":
        """The same box in a frame of `factor` times the size."""
        return Box(*(factor * value for value in self))


def square(centre: tuple[float, float], side: float) -> Box:
    """The square of this side around a point."""
    return Box(centre[0] - side / 2, centre[1] - side / 2, side, side)


def shared(one: Box, other: Box) -> float:
    """Area in both boxes."""
    width = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
    height = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
    return max(0.0, width) * max(0.0, height)


def overlap(one: Box, other: Box) -> float:
    """Intersection over union, 0..1."""
    both = shared(one, other)
    union = one.width * one.height + other.width * other.height - both
    return both / union if union > 0 else 0.0


def inside_share(box: Box, shape: tuple[int, int]) -> float:
    """Share of the box that lies in a frame of this height and width, 0..1."""
    area = box.width * box.height
    return shared(box, Box(0, 0, shape[1], shape[0])) / area if area > 0 else 0.0


def moved_inside(box: Box, shape: tuple[int, int]) -> Box:
    """The box, moved into a frame of this height and width by as little as is needed, and cut where it is larger."""
    height, width = shape
    size = min(box.width, width), min(box.height, height)
    left = min(max(0.0, box.left + (box.width - size[0]) / 2), width - size[0])
    top = min(max(0.0, box.top + (box.height - size[1]) / 2), height - size[1])
    return Box(left, top, *size)
