"""Folders that a reader sees whole or not at all: filled aside, synced, renamed."""

import ctypes
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from viewfold.errors import NO_ROOM, InvalidInput, ViewfoldError

_EXCHANGE = 2  # linux/fs.h: RENAME_EXCHANGE
_WORKING_DIRECTORY = -100  # linux/fcntl.h: AT_FDCWD
_FULL = re.compile(r"no space left|disk is full|disk full|\d+ requested and \d+ written", re.IGNORECASE)
"""How FAISS, safetensors, SQLite and numpy say that a disk is full, each by an error of its own."""


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to fill; it becomes `folder`, replacing what was there, when the block ends without an error.

    Raises:
        InvalidInput: `folder` is a link that leads nowhere, or another process makes it now.
    """
    folder = linked(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    refusal = f"{folder}: another process is making it; wait until it ends, or name another folder"
    # Two processes would fill one folder aside, each with its own half.
    with locked(folder.with_name(f".{folder.name}.making"), refusal), writing_to(folder):
        part = make_part(folder)
        try:
            yield part
        except BaseException:
            shutil.rmtree(part)
            raise
        publish(part, folder)


@contextmanager
def locked(path: Path, refusal: str) -> Iterator[None]:
    """Hold the lock file `path`, which is there during the block alone; a killed process leaves it, and holds nothing.

    Raises:
        InvalidInput: another process holds it; says `refusal`.
    """
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = path.stat().st_ino == os.fstat(lock.fileno()).st_ino
        except (BlockingIOError, FileNotFoundError):  # another has it, or had it and took the file away
            mine = False
        if not mine:
            raise InvalidInput(refusal)
        try:
            yield
        finally:
            path.unlink()


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """A disk that fills up while `path` is written ends the block with an `OSError` of that kind which names `path`.

    The system's own names nothing, and libraries raise what they like.
    """
    try:
        yield
    except ViewfoldError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            number = error.errno
        elif _FULL.search(str(error)):
            number = errno.ENOSPC
        else:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def linked(folder: Path) -> Path:
    """The folder that a link leads to, which can be replaced where the link must stay; any other path as it is.

    Raises:
        InvalidInput: the link leads nowhere.
    """
    if not folder.is_symlink():
        return folder
    if not folder.exists():
        raise InvalidInput(
            f"{folder}: a link to {folder.readlink()}, which is not there; make that folder, or mount it"
        )
    return folder.resolve()


def make_part(folder: Path) -> Path:
    """The empty folder aside in which `folder` is made; what a killed process left there goes."""
    take_back(folder)
    part = folder.with_name(f"{folder.name}.part")
    if part.exists():
        shutil.rmtree(part)
    part.mkdir(parents=True)
    return part


def publish(part: Path, folder: Path) -> None:
    """Rename `part` to `folder`, replacing what was there, once every byte is on the disk.

    Linux exchanges the two in one step, so that a reader finds the old folder or the new one at any time, and so does
    who comes after a crash, none of its files empty. Where the system cannot, see `take_back`.
    """
    for path in [*part.rglob("*"), part]:
        _sync(path)
    old = folder.with_name(f"{folder.name}.old")
    if old.exists():  # left by a process that was killed
        shutil.rmtree(old)
    if folder.exists():
        _exchange(part, folder)  # first, for under no other name would the new folder be found after a kill
        part.rename(old)
    else:
        part.rename(folder)
    _sync(folder.parent)
    if old.exists():
        shutil.rmtree(old)


def take_back(folder: Path) -> None:
    """Put back the older folder that a process was replacing when it was killed, where this took more than one step."""
    spare = _spare(folder)
    if spare.exists():
        if folder.exists():
            shutil.rmtree(spare)
        else:
            spare.rename(folder)


def _spare(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.spare")


def _exchange(one: Path, other: Path) -> None:
    exchange = getattr(ctypes.CDLL(None), "renameat2", None)
    paths = _WORKING_DIRECTORY, os.fsencode(one), _WORKING_DIRECTORY, os.fsencode(other)
    if exchange is None or exchange(*paths, _EXCHANGE):  # another system, or a file system that cannot
        spare = _spare(other)
        other.rename(spare)
        one.rename(other)
        spare.rename(one)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
