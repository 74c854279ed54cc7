"""Runs for a tracking server, kept on disk until it has them whole: one that is slow or gone loses nothing.

An outbox is a folder of `tracking/`, beside the stages of a run. The process that works appends to it and never waits;
who sends reads it, and notes in it how far the server has it (`jobs/courier.py`).
"""

import itertools
import json
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from viewfold.config import fingerprint
from viewfold.pipeline.stage import write_whole

KEPT = "tracking"
"""The folder with the outboxes of a run, in the run's folder."""
ABOUT = "run.json"
_ROWS, _ENDED, _SENT, _FILES = "rows.jsonl", "ended.json", "sent.json", "files"
_SYSTEM = "system/"


@dataclass(frozen=True, kw_only=True)
class About:
    """What a tracked run is."""

    experiment: str
    name: str
    params: dict[str, str]
    tags: dict[str, str]
    uri: str
    """The server that it was meant for, without user and password."""
    home: str
    """Where artifacts go when that server is a file."""
    began: int = field(default_factory=lambda: now_ms())
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    """By which its sender finds the run again on the server, should it be killed before it could note the run's id."""


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What one server has of it."""

    uri: str
    run_id: str = ""
    row_bytes: int = 0
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """Numbers of one moment."""

    time: int
    """Milliseconds since 1970."""
    step: int
    values: dict[str, float]


class Outbox:
    """One tracked run on disk. One process may write it; any may read."""

    def __init__(self, folder: Path) -> None:
        """`folder` holds a run that `begin` has made."""
        self.folder = folder
        self.about = About(**json.loads((folder / ABOUT).read_text(encoding="utf-8")))
        self._writing = threading.Lock()
        self._last = {_SYSTEM: -1, "": -1}

    @classmethod
    def begin(
        cls, keep: Path, about: About, files: Mapping[str, Sequence[Path]], *, resume: str | None = None
    ) -> "Outbox":
        """A new outbox in `keep`; copies of `files` go with it, by the folders that they get on the server.

        With `resume`, one of the same settings that was begun with it, and whose process was killed, is gone on with;
        other runs of this name that were killed are then over. Without, none is.
        """
        mark = uuid.uuid4().hex if resume is None else resume
        label = f"{about.name.rpartition('/')[2]}-{fingerprint(about.name, about.params, about.tags, mark)[:8]}"
        places = (keep / (label if number == 1 else f"{label}-{number}") for number in itertools.count(1))
        folder = next(place for place in places if not (place / _ENDED).is_file())
        if resume is not None:
            for other in kept(keep):
                if other.folder != folder and other.about.name == about.name and other.ended is None:
                    other.end("KILLED")
        if (folder / ABOUT).is_file():
            box = cls(folder)
            box._take_up()
            return box
        if folder.exists():  # a kill left it before it was whole
            shutil.rmtree(folder)
        for where, file in ((where, file) for where, some in files.items() for file in some):
            place = folder / _FILES / where / file.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
        _write(folder / ABOUT, asdict(about))  # last: a folder without it is no outbox
        return cls(folder)

    def log_row(self, row: Mapping[str, Any]) -> None:
        """Keep the numbers of a row of metrics, unless it is of a step that is there already.

        Those come when work is taken up from further back.
        """
        numbers = {k: float(v) for k, v in row.items() if isinstance(v, (int, float)) and k != "step"}
        self._append(numbers, int(row.get("step", 0)), "")

    def log_system(self, numbers: Mapping[str, float]) -> None:
        """Keep what a machine was doing; the names get `system/` before them, and count as steps of their own."""
        self._append({_SYSTEM + name: value for name, value in numbers.items()}, self._last[_SYSTEM] + 1, _SYSTEM)

    def end(self, status: str) -> None:
        """Nothing more comes; `status` is `FINISHED`, `FAILED` or `KILLED`."""
        _write(self.folder / _ENDED, {"status": status, "time": now_ms()})

    @property
    def ended(self) -> tuple[str, int] | None:
        """Status and time, once it is over."""
        file = self.folder / _ENDED
        if not file.is_file():
            return None
        data = json.loads(file.read_text(encoding="utf-8"))
        return str(data["status"]), int(data["time"])

    def sent(self, uri: str) -> Sent:
        """What the server at `uri` has; nothing, where another one was sent to before."""
        file = self.folder / _SENT
        if not file.is_file():
            return Sent(uri=uri)
        data = json.loads(file.read_text(encoding="utf-8"))
        return Sent(**{**data, "files": tuple(data["files"])}) if data["uri"] == uri else Sent(uri=uri)

    def note(self, sent: Sent) -> None:
        """Remember what a server has."""
        _write(self.folder / _SENT, asdict(sent))

    def rows(self, begin: int) -> Iterator[tuple[Row, int]]:
        """Whole rows from the byte `begin` on, each with the byte at which it ends."""
        if not (self.folder / _ROWS).is_file():
            return
        with (self.folder / _ROWS).open("rb") as file:
            file.seek(begin)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                begin += len(line)
                yield Row(**json.loads(line)), begin

    def files(self) -> list[tuple[str, Path]]:
        """What travels with it: for each file its folder on the server, which may be empty, and where it lies here."""
        root = self.folder / _FILES
        found = sorted(path for path in root.rglob("*") if path.is_file())
        return [(path.parent.relative_to(root).as_posix().removeprefix("."), path) for path in found]

    def remove(self) -> None:
        """The server has all of it; the folder of outboxes goes with its last one."""
        gone = self.folder.with_name(f".{self.folder.name}.{self.about.id}")
        self.folder.rename(gone)  # in one step, for its name may be wanted again at once
        shutil.rmtree(gone)
        with suppress(OSError):  # there are others
            self.folder.parent.rmdir()

    def _append(self, values: dict[str, float], step: int, kind: str) -> None:
        with self._writing:
            if step <= self._last[kind]:
                return
            self._last[kind] = step
            with (self.folder / _ROWS).open("ab") as file:
                file.write(json.dumps(asdict(Row(now_ms(), step, values))).encode() + b"\n")

    def _take_up(self) -> None:
        """Cut off the half line that a kill may have left, and know which steps are there."""
        end = 0
        for row, row_end in self.rows(0):
            kind = _SYSTEM if any(name.startswith(_SYSTEM) for name in row.values) else ""
            self._last[kind], end = row.step, row_end
        if (self.folder / _ROWS).is_file():
            os.truncate(self.folder / _ROWS, end)


def kept(keep: Path) -> list[Outbox]:
    """The outboxes in `keep`, the oldest first; one that cannot be read, as of another version, costs one warning."""
    boxes = []
    for path in keep.glob(f"[!.]*/{ABOUT}"):
        try:
            boxes.append(Outbox(path.parent))
        except FileNotFoundError:  # another process has just sent it
            continue
        except (TypeError, ValueError):
            _warn_unreadable(path)
    return sorted(boxes, key=lambda box: (box.about.began, box.folder.name))


@cache
def _warn_unreadable(about: Path) -> None:
    print(
        f"warning: {about}: not of this version of viewfold, so it is not sent; move its folder away", file=sys.stderr
    )


def now_ms() -> int:
    """Milliseconds since 1970, in which MLflow counts."""
    return int(time.time() * 1000)


def _write(path: Path, data: Mapping[str, Any]) -> None:
    write_whole(path, lambda file: file.write(json.dumps(data, indent=1).encode()))
