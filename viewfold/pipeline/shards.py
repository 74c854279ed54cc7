"""Tar shards in the WebDataset convention: what they hold, where each member lies, and reading one by its place.

A sample is the run of adjacent members that share a key: the path up to the first dot of the file's name. What follows
the dot is the member's extension (`jpg`, `json`, `07.jpg`). Members without a key or an extension are not samples.
"""

import glob
import os
import re
import tarfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from viewfold.errors import InvalidInput, ShardError

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")

_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)
_IMAGE = re.compile(rf"(?:(\d+)\.)?(?:{'|'.join(IMAGE_EXTENSIONS)})")
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_END_BLOCK = bytes(tarfile.BLOCKSIZE)
_OPEN_SHARDS = 64  # far below the usual limit of 1024 open files, and a block of the plan touches one shard or two


class Member(NamedTuple):
    """Where the bytes of one member lie in its shard."""

    offset: int
    size: int


def is_image(extension: str) -> bool:
    """Whether members of this lower-case extension are stored images: `jpg`, or `07.jpg` as one of several."""
    return _IMAGE.fullmatch(extension) is not None


@dataclass(frozen=True)
class ShardSample:
    """One sample of a shard; `members` are in the order of the tar, keyed by lower-case extension."""

    key: str
    members: dict[str, Member]

    def images(self, shard: str) -> list[Member]:
        """The stored images by their number: a plain `jpg`, or `00.jpg`, `01.jpg` and so on without a gap.

        Raises:
            ShardError: no image, both kinds, or a gap in the numbers; latents are matched to images by number.
        """
        numbered = sorted((int(m[1] or 0), ext) for ext in self.members if (m := _IMAGE.fullmatch(ext)))
        if not numbered:
            raise ShardError(
                shard, f"no image among its members; one of {', '.join(IMAGE_EXTENSIONS)} is needed", self.key
            )
        numbers = [number for number, _ in numbered]
        if numbers != list(range(len(numbers))):
            raise ShardError(shard, f"its images must be numbered 00, 01, ... once each, found {numbers}", self.key)
        return [self.members[ext] for _, ext in numbered]


def scan_shard(path: Path) -> list[ShardSample]:
    """The samples of one shard in order, from its headers alone.

    Raises:
        ShardError: not a tar, cut short, damaged between members, a key that occurs twice, or members of one key apart.
    """
    samples: dict[str, dict[str, Member]] = {}
    last = None
    for name, member in _scan_members(path):
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        key, extension = match[1], match[2].lower()
        members = samples.setdefault(key, {})
        if extension in members:
            raise ShardError(path.name, f"the member .{extension} occurs twice", key)
        if members and key != last:
            raise ShardError(
                path.name, "its members are not adjacent; write the shard again with `tar --sort=name`", key
            )
        members[extension] = member
        last = key
    return [ShardSample(key, members) for key, members in samples.items()]


def _scan_members(path: Path) -> Iterator[tuple[str, Member]]:
    try:
        with tarfile.open(path, "r:") as tar:
            while (info := tar.next()) is not None:
                if info.isreg():
                    yield info.name, Member(info.offset_data, info.size)
                tar.members.clear()  # type: ignore[attr-defined]  # TarFile keeps every header: 0.5 GB for a million members
            end = tar.offset
    except tarfile.ReadError as error:
        reason = "cut short" if "end of data" in str(error) or "truncated" in str(error) else "not a plain tar file"
        raise ShardError(path.name, f"{reason} ({error}); copy or write it again") from None
    except OSError as error:
        raise ShardError(path.name, f"cannot be opened at {path} ({error.strerror})") from None
    # tarfile stops without a word at a damaged header and at a missing end: both would lose samples in silence.
    with path.open("rb") as file:
        file.seek(end)
        block = file.read(len(_END_BLOCK))
    if block != _END_BLOCK:
        reason = "damaged" if len(block) == len(_END_BLOCK) else "cut short"
        raise ShardError(path.name, f"{reason} at byte {end}: no end mark follows the last member; copy it again")


class ShardReader:
    """Reads members by place, keeping the shards it used last open. Picklable; a copy opens its own files.

    `os.pread` shares no file position, so threads and forked processes may use one reader.
    """

    def __init__(self, paths: Sequence[Path], sizes: Sequence[int]) -> None:
        """`sizes` are the bytes that each shard had when it was indexed."""
        self._paths = list(paths)
        self._sizes = list(sizes)
        self._handles: OrderedDict[int, int] = OrderedDict()

    def read(self, shard: int, member: Member) -> bytes:
        """The bytes of one member.

        Raises:
            ShardError: the shard is gone or is not the file that was indexed.
        """
        return os.pread(self._handle(shard), member.size, member.offset)

    def close(self) -> None:
        """Close every file; reading opens them again."""
        while self._handles:
            os.close(self._handles.popitem()[1])

    def __enter__(self) -> "ShardReader":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": OrderedDict()}

    def _handle(self, shard: int) -> int:
        if shard not in self._handles:
            if len(self._handles) >= _OPEN_SHARDS:
                os.close(self._handles.popitem(last=False)[1])
            self._handles[shard] = self._open(shard)
        self._handles.move_to_end(shard)
        return self._handles[shard]

    def _open(self, shard: int) -> int:
        path, expected = self._paths[shard], self._sizes[shard]
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError as error:
            reason = f"cannot be opened at {path} ({error.strerror}); index it again where it lies now"
            raise ShardError(path.name, reason) from None
        size = os.fstat(handle).st_size
        if size != expected:
            os.close(handle)
            raise ShardError(path.name, f"has {size} bytes where the manifest says {expected}; index it again")
        return handle


def expand_shards(spec: str | Sequence[str]) -> list[Path]:
    """Shards named by files, folders (their `*.tar`), globs and brace ranges such as `a-{000000..000005}.tar`.

    They come in the order given, sorted inside a folder or glob, each once.

    Raises:
        InvalidInput: a part that names no shard.
    """
    found: dict[Path, None] = {}
    for part in [spec] if isinstance(spec, str) else spec:
        for pattern in _expand_braces(part):
            matches = _matches(pattern)
            if not matches:
                raise InvalidInput(
                    f"{pattern}: no shard there; give a .tar file, a folder of them, a glob or a brace range"
                )
            found.update(dict.fromkeys(matches))
    if not found:
        raise InvalidInput("no shard named; give .tar files, folders of them, globs or brace ranges")
    return list(found)


def _matches(pattern: str) -> list[Path]:
    path = Path(pattern)
    if path.is_dir():
        return sorted(path.glob("*.tar"))
    return [path] if path.is_file() else sorted(Path(name) for name in glob.glob(pattern))


def _expand_braces(text: str) -> list[str]:
    match = _BRACES.search(text)
    if match is None:
        return [text]
    first, last = match[1], match[2]
    width = len(first) if first.startswith("0") else 0
    numbers = [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    return [text[: match.start()] + number + rest for number in numbers for rest in _expand_braces(text[match.end() :])]
