"""Why no track came of a frame, of a window or of boxes that were given."""

from typing import NamedTuple


class Reason(NamedTuple):
    """One reason."""

    what: str
    """What there were so many of."""
    cure: str
    """What could be changed."""


REASONS = {
    "camera": Reason("frames that moved with the camera", "raise max_moving, or hold the camera still"),
    "noise": Reason("frames in which too few points moved", "lower min_moving"),
    "still": Reason("frames without a window that moved enough", "lower moving_px, min_points or min_share"),
    "lost": Reason("windows that could not be followed to the end", "lower frames"),
    "left": Reason("windows that left the frame", "lower frames"),
    "drifted": Reason("windows that did not come back to where they began", "lower min_returned or frames"),
    "hardly moved": Reason("windows that hardly moved", "lower min_travel"),
    "blank": Reason("windows with a blank patch", "lower min_contrast"),
    "few": Reason("given tracks with too few boxes in the frame", "lower images_per_track"),
}
"""By the name under which they are counted. `camera`, `noise` and `still` are frames in which a track may begin."""
