"""The way to OpenCV, an optional package."""

from typing import Any

from viewfold.errors import MissingDependency


def opencv() -> Any:
    """The module `cv2`."""
    try:
        import cv2
    except ModuleNotFoundError:
        raise MissingDependency("reading videos needs OpenCV: pip install 'viewfold[video]'") from None
    # Of a file that is no video it warns on standard error before the one line that says so.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    return cv2
