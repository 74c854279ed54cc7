"""Files and stage folders that are there whole or not at all, and are made again only when something changed.

A stage is a folder. While it is made it is called `NAME.part`, and a run that was cut finds its half-done work there;
when it is whole it gets its `stage.json` and its name. Finished work is what exists under its final name.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import viewfold
from viewfold.config import fingerprint
from viewfold.errors import InvalidInput
from viewfold.folders import linked, publish, writing_to

FORMAT = 1
RECORD = "stage.json"
STARTED = "stage.started"


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """What is known of a finished stage; all but `folder` and `reused` is in its `stage.json`."""

    name: str
    fingerprint: str
    """Of name, configuration, inputs and code: a stage that has the same one need not be made again."""
    id: str
    """New for every making, so that what is built on a stage that was made again is made again too."""
    seconds: float
    """That the last call of `make` took; what a run that was cut had spent before is not in it."""
    code_version: str
    inputs: dict[str, str]
    outputs: dict[str, int]
    """Size in bytes of every file, by its path in the folder."""
    result: dict[str, Any]
    """What `make` returned, as JSON gives it back."""
    folder: Path
    reused: bool
    """Whether the stage was found finished."""


def run_stage(
    folder: Path,
    *,
    name: str,
    config: Any,
    inputs: Mapping[str, str],
    make: Callable[[Path], Mapping[str, Any] | None],
    code_version: str,
) -> StageRecord:
    """Make the stage `folder` by `make`, or find it finished.

    It is finished when `folder/stage.json` bears the fingerprint of `name`, `config`, `inputs` and `code_version`, and
    every file that it lists has the size that it states. Otherwise `make` fills `folder.part`, which is empty or has
    what a call of the same fingerprint that was cut left there, and returns facts for the record, as plain data.
    `inputs` are identities (hashes, ids of stages), not contents.

    Raises:
        InvalidInput: another process is making this stage now, or `folder` holds things that no stage made.
    """
    mark = fingerprint(name, config, dict(inputs), code_version)
    folder = linked(folder)
    part = folder.with_name(f"{folder.name}.part")
    with _alone(folder), writing_to(folder):
        if found := _finished(folder, mark):
            return found
        _require_stage(folder)
        if not _finished(part, mark):  # a kill between the last two renames leaves a whole one
            _prepare(part, mark)
            began = time.perf_counter()
            result = make(part)
            seconds = round(time.perf_counter() - began, 3)
            record = StageRecord(
                name=name,
                fingerprint=mark,
                id=uuid.uuid4().hex,
                seconds=seconds,
                code_version=code_version,
                inputs=dict(inputs),
                outputs=_sizes(part),
                result=dict(result or {}),
                folder=part,
                reused=False,
            )
            _write_record(record)
            (part / STARTED).unlink()  # last: without either file a kill here would cost the finished work
        publish(part, folder)
        whole = read_record(folder)
        assert whole is not None, f"{folder / RECORD} was just written"
        return replace(whole, reused=False)


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    """Let `write` fill a file aside, then rename it to `path`: a reader sees the old file or the new one, never a half.

    Folders above `path` are made. When `write` raises, `path` is untouched and nothing is left beside it.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with writing_to(path), aside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


@cache
def code_version() -> str:
    """Version of the package and a hash of its sources: what was made by other code is not taken for finished."""
    root = Path(viewfold.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return f"{viewfold.__version__}+{digest.hexdigest()[:12]}"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the stage's lock file; it stays behind, for removing it would let two processes lock two files."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.with_name(f".{folder.name}.lock")
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidInput(
                f"{folder}: another process is making this stage (it holds {lock.name}); "
                "wait until it ends, or write to another folder"
            ) from None
        yield


def _finished(folder: Path, mark: str) -> StageRecord | None:
    """The record of a whole stage with this fingerprint."""
    record = read_record(folder)
    if record is None or record.fingerprint != mark:
        return None
    whole = all((folder / p).is_file() and (folder / p).stat().st_size == n for p, n in record.outputs.items())
    return record if whole else None


def _require_stage(folder: Path) -> None:
    """A folder is replaced only if a stage made it, so that a mistyped path costs nobody their data."""
    if folder.exists() and not (folder / RECORD).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"{folder}: exists and holds no {RECORD}; write to another folder, or remove it")


def _prepare(part: Path, mark: str) -> None:
    """Keep the half-done work of the same fingerprint, remove any other."""
    started = part / STARTED
    if not started.is_file() or started.read_text(encoding="utf-8") != mark:
        if part.exists():
            shutil.rmtree(part)
        write_whole(started, lambda file: file.write(mark.encode()))


def _write_record(record: StageRecord) -> None:
    data = {"format": FORMAT} | asdict(record)
    del data["folder"], data["reused"]
    text = json.dumps(data, indent=2) + "\n"
    write_whole(record.folder / RECORD, lambda file: file.write(text.encode()))


def read_record(folder: Path) -> StageRecord | None:
    """None where there is no record, or one of another format: the stage is then made again."""
    path = folder / RECORD
    if not path.is_file():
        return None
    data = json.loads(path.read_text(encoding="utf-8"))
    if data.pop("format", None) != FORMAT:
        return None
    return StageRecord(**data, folder=folder, reused=True)


def _sizes(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / STARTED)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
