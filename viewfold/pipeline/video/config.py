"""What is asked of tracks found in videos."""

from dataclasses import dataclass

from viewfold.config import Config, check_ranges

CUT_SETTINGS = ("images_per_track", "size")
"""Settings of how a track is cut out. All others are of how tracks are found, without effect where they are given."""


@dataclass(frozen=True, kw_only=True)
class VideoConfig(Config):
    """How moving patches are found, followed and kept. Pixels are those of the analysed frame (`analysed_px`).

    The paper's own figures (arXiv:1708.02901: large objects, one window) are `windows=[0.5675] min_moving=0.25`.
    """

    frames: int = 30
    """Length of a track, 3..1000."""
    every: int = 10
    """New tracks begin in every so many frames, 1..1000; none begins on a track that is being followed."""
    images_per_track: int = 5
    """Patches kept of a track, evenly spaced, the first and the last frame among them, 2..100."""
    size: int = 96
    """Side of the patches as they are stored, in pixels, 16..1024."""
    analysed_px: int = 400
    """Frames are searched and followed at this height where they are higher, 64..4096; patches are cut at full size."""
    windows: tuple[float, ...] = (0.12, 0.17, 0.24, 0.34, 0.48)
    """Sides of the square windows that are tried, as parts of the frame's shorter side, each 0.04..1."""
    moving_px: float = 0.5
    """A point that moves by more than this from one frame to the next is a moving one, 0.05..50."""
    min_moving: float = 0.0
    """A frame of whose points fewer move is noise and begins no track, 0..1; 0.25 is the paper's. Small things before a
    camera that stands still move few points of a frame, so the share is asked of the window instead (`min_share`)."""
    max_moving: float = 0.75
    """A frame of whose points more move than this share moved with the camera, 0..1: no track goes through it."""
    min_share: float = 0.25
    """Share of the points of a window that must move, 0..1."""
    min_points: int = 12
    """Points that must move in a window, and agree on how, 4..10000."""
    min_returned: float = 0.6
    """The box followed to the last frame and back must overlap the first by this (intersection over union), 0..1."""
    min_travel: float = 0.3
    """How far a box must have moved between any two frames of its track, in its own sides, 0..100."""
    min_contrast: float = 8.0
    """Standard deviation of the grey levels (0..255) that every patch must have, 0..100: a blank one shows nothing."""

    def __post_init__(self) -> None:
        check_ranges(
            self,
            frames=(3, 1000),
            every=(1, 1000),
            images_per_track=(2, min(100, self.frames)),
            size=(16, 1024),
            analysed_px=(64, 4096),
            moving_px=(0.05, 50),
            min_moving=(0, 1),
            max_moving=(0, 1),
            min_share=(0, 1),
            min_points=(4, 10_000),
            min_returned=(0, 1),
            min_travel=(0, 100),
            min_contrast=(0, 100),
        )
        if not self.windows or not all(0.04 <= side <= 1 for side in self.windows):
            raise ValueError(f"windows must be one or more sides in 0.04..1, got {list(self.windows)}")
