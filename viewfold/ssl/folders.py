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
    """Rename, once every byte is on the disk: a crash after it must not leave an empty file under the final name."""
    for path in [*part.rglob("*"), part]:
        _sync(path)
    if folder.exists():
        shutil.rmtree(folder)
    part.rename(folder)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
