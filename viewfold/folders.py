"""Folders that a reader sees whole or not at all: filled aside, synced, renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
    part = folder.with_name(f"{folder.name}.part")
    if part.exists():
        shutil.rmtree(part)
    part.mkdir(parents=True)
    return part


def publish(part: Path, folder: Path) -> None:
    """Rename `part` to `folder`, replacing what was there, once every byte is on the disk.

    Replacing takes two renames: a reader may for a moment find no folder, and never half of one. A crash leaves the old
    folder or the new one, none of its files empty.
    """
    for path in [*part.rglob("*"), part]:
        _sync(path)
    old = folder.with_name(f"{folder.name}.old")
    if old.exists():  # left by a process that was killed
        shutil.rmtree(old)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    _sync(folder.parent)
    if old.exists():
        shutil.rmtree(old)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
