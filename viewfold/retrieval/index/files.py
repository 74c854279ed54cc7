"""Folders that are whole or absent: written aside, synced, renamed, and held against their sha256 when read again."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from viewfold.errors import ArtifactMismatch, InvalidInput
from viewfold.folders import locked, take_back, whole_folder

T = TypeVar("T")
_OPENINGS = 20
"""How often a folder is read anew because another took its place meanwhile."""


@contextmanager
def published(out: Path, *, marker: str) -> Iterator[Path]:
    """A folder beside `out` to fill; it takes the place of `out` when the block ends well and vanishes otherwise.

    An older folder is replaced only if it holds the file `marker`, so that a mistyped path costs nobody their data.

    Raises:
        InvalidInput: `out` is a file, or a folder with other things in it.
    """
    replaceable(out, marker=marker)
    with whole_folder(out) as aside:
        yield aside


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """While the block runs no other process changes `folder`: what was read from it is still so when it is replaced.

    Raises:
        InvalidInput: another process changes it now, or there is no place for it.
    """
    if not folder.parent.is_dir():
        raise InvalidInput(f"{folder.parent}: no such folder; check the path")
    refusal = f"{folder}: another process is changing it; wait until it ends"
    with locked(folder.with_name(f"{folder.name}.lock"), refusal):
        take_back(folder)
        yield


def steadily(folder: Path, read: Callable[[], T]) -> T:
    """What `read` makes of the files of `folder`, all of them of one folder: read anew if another took its place.

    A folder that `whole_folder` made is replaced as one, so its inode tells; it is held open, lest another gets it.

    Raises:
        InvalidInput: it was replaced each time. What `read` raises of a folder that stayed.
    """
    for _ in range(_OPENINGS if folder.is_dir() else 0):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            found = read()
            if _leads_to(folder, handle):
                return found
        except Exception:  # what a mixture of two folders makes a library say, too
            if _leads_to(folder, handle):
                raise
        finally:
            os.close(handle)
    if folder.is_dir():
        raise InvalidInput(f"{folder}: is replaced again and again while it is read; wait until that ends")
    return read()


def _leads_to(folder: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(folder), os.fstat(handle))
    except FileNotFoundError:
        return False


def replaceable(out: Path, *, marker: str) -> None:
    """Refuse to replace what holds no file `marker`.

    Raises:
        InvalidInput: `out` is a file, or a folder with other things in it.
    """
    if out.exists() and not (out / marker).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInput(f"{out}: exists and holds no {marker}; name another folder or remove it")


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write `data` whole: a reader sees the older file, or this one."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    part.rename(path)


def read_json(path: Path, *, kind: str, version: int) -> dict[str, Any]:
    """The object in `path`, which describes a `kind` of artifact in format `version`.

    Raises:
        InvalidInput: there is no such file, or it is not a JSON object.
        ArtifactMismatch: it was written in another format; names both.
    """
    if not path.is_file():
        raise InvalidInput(f"{path.parent}: no {kind} here ({path.name} is missing); check the path or make it again")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: damaged, not a JSON file ({error}); make the {kind} again") from None
    if not isinstance(data, dict) or "format" not in data:
        raise InvalidInput(f"{path}: describes no {kind} (it has no field 'format'); check the path")
    if data["format"] != version:
        raise ArtifactMismatch(
            f"{path}: {kind} of format {data['format']}, this version reads format {version}; make the {kind} again"
        )
    return data


def file_sha256(path: Path) -> str:
    """Lower-case hex digest of what the file holds."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The digest of each named file of `folder`, in ascending order of names."""
    return {name: file_sha256(folder / name) for name in sorted(names)}


def check_sha256(folder: Path, expected: Mapping[str, str]) -> None:
    """Hold the files of `folder` against the digests written down when they were made.

    Raises:
        InvalidInput: a file is missing or holds something else.
    """
    for name, digest in expected.items():
        path = folder / name
        if not path.is_file():
            raise InvalidInput(f"{path}: this file is missing; copy the whole folder again or make it again")
        found = file_sha256(path)
        if found != digest:
            raise InvalidInput(
                f"{path}: damaged or changed, its sha256 begins with {found[:12]} where {digest[:12]} is recorded; "
                "copy the folder again or make it again"
            )
