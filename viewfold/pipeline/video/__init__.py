"""Videos to tracks: what moves is found, followed there and back, and cut out; or cut where somebody says it is."""

from viewfold.pipeline.video.config import CUT_SETTINGS, VideoConfig
from viewfold.pipeline.video.importer import REPORT_NAME, SHEET_NAME, VideoCounts, import_videos
from viewfold.pipeline.video.reasons import REASONS

__all__ = ["CUT_SETTINGS", "REASONS", "REPORT_NAME", "SHEET_NAME", "VideoConfig", "VideoCounts", "import_videos"]
