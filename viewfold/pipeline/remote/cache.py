"""Remote shards on the local disk: one folder that all processes of a node share, bounded in bytes.

There is no daemon and no shared memory: the folder is the state. A whole shard is `<address>-<bytes>-<version>.tar`,
one on its way is `<address>-<bytes>.part`, which counts in full from the moment it is begun: its name is its
reservation. What must not happen twice at once is done under a file lock, which the kernel lifts from a process that is
killed; the part that it leaves is thrown away by whoever comes next.

Whoever reads a shard holds its file open under a shared lock. Room is made by removing the shards that were opened
longest ago, first of those that nobody holds. One that is held goes only when there is nothing else; its readers keep
the file, and its bytes leave the disk when the last of them closes it. On a disk too small for the cache's bound, three
quarters of what it has for shards are the bound.
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from viewfold.errors import InvalidInput, ShardError
from viewfold.pipeline.remote.locks import exclusive, hold, is_held
from viewfold.pipeline.remote.retries import Patience
from viewfold.pipeline.remote.store import Facts, fetch, look
from viewfold.pipeline.remote.urls import file_name, scheme, shown

FOLDER_VARIABLE, BYTES_VARIABLE = "VIEWFOLD_CACHE", "VIEWFOLD_CACHE_BYTES"
DEFAULT_FOLDER, DEFAULT_BYTES = "~/.cache/viewfold/shards", "64GB"

_NAME = re.compile(r"([0-9a-f]{32})-(\d+)(?:-[0-9a-f]{8}\.tar|\.part)")
_BYTES = re.compile(r"(\d+(?:\.\d+)?(?:e\d{1,2})?)\s*(?:([KMGT])(i?))?B?", re.IGNORECASE)
_ROOM_POLL_S = 0.1

_known: dict[str, Path] = {}  # where this process found a shard: looking through the folder takes ten times as long


def shard_cache() -> "Cache":
    """The cache of this machine, by VIEWFOLD_CACHE (a folder) and VIEWFOLD_CACHE_BYTES (such as 50e9 or 50GB).

    Raises:
        InvalidInput: a number of bytes that is none.
    """
    folder = Path(os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER).expanduser().absolute()
    given = os.environ.get(BYTES_VARIABLE) or DEFAULT_BYTES
    match = _BYTES.fullmatch(given.strip())
    most = 0
    if match:
        power = "KMGT".index(match[2].upper()) + 1 if match[2] else 0
        most = int(Decimal(match[1]) * (1024 if match[3] else 1000) ** power)
    if most < 1:
        raise InvalidInput(f"{BYTES_VARIABLE}={given}: not a number of bytes; give one such as 50e9, 50GB or 64GiB")
    return Cache(folder, most)


@dataclass(frozen=True)
class Cache:
    """A folder of whole shards."""

    folder: Path
    max_bytes: int
    """Bound of whole shards and reservations together."""
    patience: Patience = field(default_factory=Patience)

    def open(self, url: str, *, expected: int | None, ahead: bool = False) -> int | None:
        """An open file of the whole shard, fetched if it is not here; `expected` are the bytes it must have.

        One process fetches, the others wait for it. Without `expected` the store is asked whether its shard is still
        the one that is here. None only with `ahead`: there is no room but what others hold.

        Raises:
            ShardError: another length, larger than the cache, not to be had, or no room on the disk.
            InvalidInput: the folder cannot be used.
        """
        address = hashlib.sha256(url.encode()).hexdigest()[:32]
        # What memory:// names belongs to one process, and the folder to all.
        asked = expected is None or scheme(url) == "memory"
        facts = look(url, patience=self.patience) if asked else None
        with self._used():
            handle = self._cached(address, expected, facts)
            if handle is not None:
                return handle
            self.folder.mkdir(parents=True, exist_ok=True)
            with exclusive(self.folder / f"{address}.lock"):
                handle = self._cached(address, expected, facts)
                return self._fetched(url, address, facts, expected, ahead) if handle is None else handle

    def held_bytes(self) -> int:
        """Bytes of whole shards and of reservations, counted at one moment.

        Raises:
            InvalidInput: the folder cannot be used.
        """
        if not self.folder.is_dir():
            return 0
        with self._used(), self._counting():
            return sum(entry.bytes for entry in self._entries())

    @contextmanager
    def _used(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InvalidInput(
                f"{self.folder}: the shard cache cannot be used ({error.strerror});"
                f" set {FOLDER_VARIABLE} to a folder that can be written"
            ) from None

    @contextmanager
    def _counting(self) -> Iterator[None]:
        """Nobody else begins or completes a shard meanwhile."""
        with exclusive(self.folder / ".lock"):
            yield

    def _cached(self, address: str, expected: int | None, facts: Facts | None) -> int | None:
        """The shard as it is here, marked as used now; one of another size than its name says is thrown away."""
        size = expected if facts is None else facts.size
        pattern = f"{address}-{size}-{'*' if facts is None else _version(facts)}.tar"
        place = f"{self.folder}/{pattern}"
        if place in _known and (handle := _whole(_known[place], size)) is not None:
            return handle
        for path in self.folder.glob(pattern):
            if (handle := _whole(path, size)) is not None:
                _known[place] = path
                return handle
        return None

    def _fetched(self, url: str, address: str, facts: Facts | None, expected: int | None, ahead: bool) -> int | None:
        name, size = file_name(url), expected if facts is None else facts.size
        assert size is not None
        for left in self.folder.glob(f"{address}-*.part"):  # by a process that was killed
            left.unlink(missing_ok=True)
        part = self.folder / f"{address}-{size}.part"
        if not self._reserve(name, part, size, ahead):
            return None
        handle = hold(part, flags=os.O_RDWR)
        try:
            facts = facts or look(url, patience=self.patience)
            if expected is not None and facts.size != expected:
                reason = f"has {facts.size} bytes at {shown(url)} where the manifest says {expected}; index it again"
                raise ShardError(name, reason)
            self._fill(handle, url, facts)
            with self._counting():
                for older in self.folder.glob(f"{address}-{size}-*.tar"):
                    older.unlink(missing_ok=True)
                with suppress(FileNotFoundError):  # somebody emptied the folder; the open file is whole all the same
                    part.rename(part.with_name(f"{address}-{size}-{_version(facts)}.tar"))
        except BaseException:
            os.close(handle)
            part.unlink(missing_ok=True)
            raise
        return handle

    def _fill(self, handle: int, url: str, facts: Facts) -> None:
        def write(offset: int, piece: bytes) -> None:
            rest = memoryview(piece)
            try:
                while rest:
                    written = os.pwrite(handle, rest, offset)
                    rest, offset = rest[written:], offset + written
            except OSError as error:
                raise self._no_room(file_name(url), facts.size, f"cannot be written ({error.strerror})") from None

        fetch(url, facts, write, patience=self.patience)
        os.fsync(handle)  # a power failure must not leave a whole name on half the bytes

    def _reserve(self, name: str, part: Path, size: int, ahead: bool) -> bool:
        """Begin an empty part once there is room for all of it; waits where others are filling theirs."""
        if size > self.max_bytes:
            reason = (
                f"has {size} bytes, {size - self.max_bytes} more than the {self.max_bytes} of the shard"
                f" cache; set {BYTES_VARIABLE} to several times the largest shard, or write smaller shards"
            )
            raise ShardError(name, reason)
        while True:
            with self._counting():
                if self._make_room(name, size, ahead):
                    part.touch()
                    return True
            if ahead:
                return False
            time.sleep(_ROOM_POLL_S)

    def _make_room(self, name: str, size: int, ahead: bool) -> bool:
        """Remove what must go for `size` more bytes, if it can be; whether there is room now."""
        entries = self._entries()
        on_disk = sum(entry.on_disk for entry in entries)
        # The quarter is for shards that were removed while they were held.
        most = min(self.max_bytes, (shutil.disk_usage(self.folder).free + on_disk) * 3 // 4)
        if size > most and not ahead:
            raise self._no_room(name, size, f"finds room for {most}")
        over = sum(entry.bytes for entry in entries) + size - most
        if over <= 0:
            return True
        idle, held = _by_age(entries)
        if ahead and sum(entry.bytes for entry in idle) < over:
            return False
        for entry in idle if ahead else (*idle, *held):
            if over <= 0:
                break
            entry.path.unlink(missing_ok=True)
            over -= entry.bytes
        return over <= 0

    def _no_room(self, name: str, size: int, finds: str) -> ShardError:
        return ShardError(
            name,
            f"has {size} bytes and {finds} on the disk of the shard cache {self.folder}; free some,"
            f" or set {FOLDER_VARIABLE} to a folder on another disk",
        )

    def _entries(self) -> list["_Entry"]:
        entries = []
        for item in os.scandir(self.folder):
            if match := _NAME.fullmatch(item.name):
                with suppress(FileNotFoundError):  # thrown away meanwhile
                    about = item.stat()
                    entries.append(_Entry(Path(item.path), int(match[2]), about.st_size, about.st_mtime_ns))
        return entries


def _whole(path: Path, size: int | None) -> int | None:
    with suppress(FileNotFoundError):
        handle = hold(path)
        if os.fstat(handle).st_size == size:
            with suppress(PermissionError):  # another user's: it looks older than it is, and may go sooner
                os.utime(handle)
            return handle
        os.close(handle)
        path.unlink()
    return None


class _Entry(NamedTuple):
    path: Path
    bytes: int
    on_disk: int
    used_ns: int


def _by_age(entries: Sequence[_Entry]) -> tuple[list[_Entry], list[_Entry]]:
    """What nobody uses, parts first, and shards that somebody holds; each from the one that was used longest ago."""
    idle: list[_Entry] = []
    held: list[_Entry] = []
    for entry in sorted(entries, key=lambda entry: (entry.path.suffix != ".part", entry.used_ns)):
        if entry.path.suffix == ".part":
            if not is_held(entry.path.with_name(f"{entry.path.name[:32]}.lock")):
                idle.append(entry)
        else:
            (held if is_held(entry.path) else idle).append(entry)
    return idle, held


def _version(facts: Facts) -> str:
    return hashlib.sha256(facts.identity.encode()).hexdigest()[:8]
