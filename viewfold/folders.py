"""Folders that a reader sees whole or not at all: filled aside, synced, renamed."""

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_EXCHANGE = 2  # linux/fs.h: RENAME_EXCHANGE
_WORKING_DIRECTORY = -100  # linux/fcntl.h: AT_FDCWD


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to fill; it becomes `folder`, replacing what was there, when the block ends without an error."""
    part = make_part(folder)
    try:
        yield part
    except BaseException:
        shutil.rmtree(part)
        raise
    publish(part, folder)


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
        part.rename(old)
        _exchange(old, folder)
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
