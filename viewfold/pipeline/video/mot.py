"""Tracks that somebody else found: the CSV files of the MOT challenge (motchallenge.net), one for each video."""

import csv
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from viewfold.errors import InvalidInput
from viewfold.pipeline.video.boxes import Box, inside_share
from viewfold.pipeline.video.config import VideoConfig
from viewfold.pipeline.video.frames import Frame
from viewfold.pipeline.video.track import Track, cut, evenly

_LEAST_INSIDE = 0.5
"""Share of a box that must lie in the frame: the MOT challenge's boxes go on beyond it."""
_COLUMNS = ("frame", "id", "left", "top", "width", "height")


class GivenBox(NamedTuple):
    """One line of the file."""

    frame: int
    """Counted from 1."""
    box: Box
    line: int


def read_mot(path: Path) -> dict[int, list[GivenBox]]:
    """The boxes of each track by its id, in the order of time: `frame,id,left,top,width,height,...` in each line.

    A seventh column of 0 says that the line does not count; further columns are not looked at.

    Raises:
        InvalidInput: a file that cannot be read or has no box, and a line, by its number, that is no box or a second
            one of its track in the same frame.
    """
    found: dict[int, list[GivenBox]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file)
            for fields in lines:
                if fields and (parsed := _parsed(fields, f"{path}: line {lines.line_num}")) is not None:
                    track, frame, box = parsed
                    found.setdefault(track, []).append(GivenBox(frame, box, lines.line_num))
    except FileNotFoundError:
        raise InvalidInput(f"{path}: no such file") from None
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror}); name a CSV file of tracks") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"{path}: not a CSV file in UTF-8: {error}") from None
    if not found:
        raise InvalidInput(f"{path}: no box in it; each line is {','.join(_COLUMNS)},...")
    for track, boxes in found.items():
        boxes.sort(key=lambda one: one.frame)
        for before, one in pairwise(boxes):
            if before.frame == one.frame:
                raise InvalidInput(
                    f"{path}: line {one.line}: "
                    f"track {track} has a box in frame {one.frame} already, in line {before.line}"
                )
    return dict(sorted(found.items()))


def _parsed(fields: list[str], where: str) -> tuple[int, int, Box] | None:
    """Track, frame and box of one line; None where it does not count."""
    if len(fields) < len(_COLUMNS):
        raise InvalidInput(f"{where}: {len(fields)} columns, expected {','.join(_COLUMNS)},...")
    numbers = []
    for name, text in zip((*_COLUMNS, "confidence"), fields, strict=False):
        try:
            numbers.append(float(text))
        except ValueError:
            raise InvalidInput(f"{where}: {name} is {text.strip()[:40]!r}, expected a number") from None
        if not math.isfinite(numbers[-1]):
            raise InvalidInput(f"{where}: {name} is {text.strip()}, expected a finite number")
    frame, track, left, top, width, height, *confidence = numbers
    if frame < 1 or frame != int(frame) or track != int(track):
        raise InvalidInput(
            f"{where}: frame {fields[0].strip()}, id {fields[1].strip()}; expected whole numbers, frames from 1"
        )
    if width <= 0 or height <= 0:
        raise InvalidInput(f"{where}: a box of {width:g} x {height:g} pixels")
    # Pixels of the format are counted from 1.
    return None if confidence == [0] else (int(track), int(frame), Box(left - 1, top - 1, width, height))


def cut_given(
    frames: Iterable[Frame],
    given: Mapping[int, list[GivenBox]],
    config: VideoConfig,
    tally: Counter[str],
    *,
    where: Path,
) -> Iterator[Track]:
    """The tracks of the file `where`, each with evenly spaced patches, in the order in which they end.

    `tally` counts those that have too few boxes in the frame. Nothing is kept of a frame but patches.

    Raises:
        InvalidInput: a box in a frame that the video does not have.
    """
    wanted: dict[int, list[tuple[int, Box]]] = {}
    begun: dict[int, Track] = {}
    last = 0
    for frame in frames:
        if not last:
            wanted = _wanted(given, frame.rgb.shape[:2], config, tally)
        last = frame.number
        for number, box in wanted.pop(last, []):
            track = begun.setdefault(number, Track(f"{number:05d}", [], [], []))
            track.frames.append(last)
            track.boxes.append(box)
            track.patches.append(cut(frame.rgb, box, config.size))
            if len(track.frames) == config.images_per_track:
                yield begun.pop(number)
    beyond = [one for boxes in given.values() for one in boxes if one.frame > last]
    if beyond:
        first = min(beyond, key=lambda one: one.line)
        raise InvalidInput(f"{where}: line {first.line}: frame {first.frame}, but the video has {last}")


def _wanted(
    given: Mapping[int, list[GivenBox]], shape: tuple[int, ...], config: VideoConfig, tally: Counter[str]
) -> dict[int, list[tuple[int, Box]]]:
    """The boxes to cut by their frame, each with the id of its track."""
    wanted: dict[int, list[tuple[int, Box]]] = {}
    for number, boxes in given.items():
        seen = [one for one in boxes if inside_share(one.box, (shape[0], shape[1])) >= _LEAST_INSIDE]
        if len(seen) < config.images_per_track:
            tally["few"] += 1
            continue
        for place in evenly(len(seen), config.images_per_track):
            wanted.setdefault(seen[place].frame, []).append((number, seen[place].box))
    return wanted
