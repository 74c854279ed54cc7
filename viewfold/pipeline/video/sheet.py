"""A contact sheet of tracks: a row for each, time from left to right."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from viewfold.pipeline.stage import write_whole
from viewfold.pipeline.video.track import Track, evenly

MAX_ROWS, MAX_COLUMNS = 24, 8
TILE_PX = 96
_MARGIN, _GAP = 190, 2


@dataclass
class Shown:
    """Some of the tracks that pass by, evenly over all of them, in bounded memory."""

    rows: list[tuple[str, Track]] = field(default_factory=list)
    """Key and track."""
    num_tracks: int = 0
    every: int = 1

    def add(self, key: str, track: Track) -> None:
        """Keep one of `every`; when there are twice as many as fit, every other one goes."""
        if self.num_tracks % self.every == 0:
            self.rows.append((key, track))
        self.num_tracks += 1
        if len(self.rows) == 2 * MAX_ROWS:
            self.rows, self.every = self.rows[::2], 2 * self.every


def track_sheet(shown: Shown, path: Path) -> Path:
    """Write the sheet as a PNG: under each key the first and the last frame, then patches from first to last."""
    rows = [shown.rows[place] for place in evenly(len(shown.rows), MAX_ROWS)]
    columns = min(MAX_COLUMNS, max(len(track.patches) for _, track in rows))
    width, height = _MARGIN + columns * (TILE_PX + _GAP), len(rows) * (TILE_PX + _GAP)
    sheet = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for number, (key, track) in enumerate(rows):
        top = number * (TILE_PX + _GAP)
        pen.text((4, top + 34), _short(key), fill="black", font=font)
        pen.text((4, top + 50), f"frames {track.frames[0]} to {track.frames[-1]}", fill="gray", font=font)
        _put(sheet, track, top, columns)
    return write_whole(path, lambda file: sheet.save(file, "PNG"))


def _put(sheet: Image.Image, track: Track, top: int, columns: int) -> None:
    for column, place in enumerate(evenly(len(track.patches), columns)):
        tile = Image.fromarray(np.ascontiguousarray(track.patches[place])).resize((TILE_PX, TILE_PX))
        sheet.paste(tile, (_MARGIN + column * (TILE_PX + _GAP), top))


def _short(key: str, length: int = 28) -> str:
    return key if len(key) <= length else f"{key[: length // 2 - 1]}..{key[1 - length // 2 :]}"
