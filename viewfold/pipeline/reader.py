"""Members of shards by their place, wherever the shards lie."""

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from viewfold.errors import MissingDependency, ShardError
from viewfold.pipeline.locations import is_remote, local_path
from viewfold.pipeline.remote.ahead import ReadAhead
from viewfold.pipeline.remote.cache import shard_cache
from viewfold.pipeline.remote.store import load
from viewfold.pipeline.remote.urls import file_name
from viewfold.pipeline.shards import Member

_OPEN_SHARDS = 16  # one that is opened again, 20 us if it is cached, costs less than one that cannot leave the cache


def open_shard(location: str, *, expected: int | None) -> int:
    """An open, readable file of a whole shard on the local disk; `expected` are the bytes it had when it was indexed.

    That of a URL is in the shard cache, and is fetched if it is not there yet.

    Raises:
        ShardError: the shard is gone, is not the file that was indexed, or cannot be fetched.
        InvalidInput: the shard cache cannot be used.
        MissingDependency: the package of the URL's scheme is not installed.
    """
    if is_remote(location):
        handle = shard_cache().open(location, expected=expected)
        assert handle is not None
        return handle
    path = local_path(location)
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError as error:
        reason = f"cannot be opened at {path} ({error.strerror}); index it again where it lies now"
        raise ShardError(path.name, reason) from None
    size = os.fstat(handle).st_size
    if expected is not None and size != expected:
        os.close(handle)
        raise ShardError(path.name, f"has {size} bytes where the manifest says {expected}; index it again")
    return handle


class ShardReader:
    """Reads members by place, keeping the shards it used last open. Picklable; a copy opens its own files.

    `os.pread` shares no file position, so threads and forked processes may use one reader.
    """

    def __init__(self, locations: Sequence[str], sizes: Sequence[int]) -> None:
        """`sizes` are the bytes that each shard had when it was indexed."""
        self._locations = list(locations)
        self._sizes = list(sizes)
        self._files: dict[int, _File] = {}
        self._reads = 0
        self._ahead: ReadAhead[_File] | None = None

    def read(self, shard: int, member: Member) -> bytes:
        """The bytes of one member.

        Raises:
            ShardError: the shard is gone, is not the file that was indexed, ends early, or cannot be fetched.
            InvalidInput: the shard cache cannot be used.
            MissingDependency: the package of a URL's scheme is not installed.
        """
        # A thread that takes the file away from another only drops it here: it is closed when neither has it.
        file = self._files.get(shard) or self._open(shard)
        self._reads += 1
        file.last_read = self._reads
        data = os.pread(file.handle, member.size, member.offset)
        if len(data) != member.size:
            raise ShardError(
                file_name(self._locations[shard]),
                f"was cut short while it was open: {len(data)} of {member.size} bytes at byte {member.offset};"
                " copy it again, and let nothing write where shards are read",
            )
        return data

    def read_ahead(self, shards: Sequence[int]) -> None:
        """Fetch the remote ones of these in the background, in this order of need, after what was asked for before.

        A shard is held until it is read; reading one gives up those that were asked for before it and passed over.
        What fails here fails again in `read`, which says so. Nothing is fetched ahead that would take the room of a
        shard that somebody holds open.
        """
        wanted = [shard for shard in shards if shard not in self._files and is_remote(self._locations[shard])]
        if wanted:
            with suppress(MissingDependency):
                load(self._locations[wanted[0]])  # imports belong to the calling thread: see there
        if self._ahead is None or not self._ahead.is_mine():
            if not wanted:
                return
            self._ahead = ReadAhead(partial(_open_ahead, self._locations, self._sizes))
        self._ahead.want(wanted)

    def close(self) -> None:
        """Close every file and fetch nothing more ahead; reading opens them again."""
        self._files.clear()
        if self._ahead is not None and self._ahead.is_mine():
            self._ahead.forget()
        self._ahead = None

    def __enter__(self) -> "ShardReader":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}, "_ahead": None}

    def _open(self, shard: int) -> "_File":
        file = self._ahead.take(shard) if self._ahead is not None and self._ahead.is_mine() else None
        if file is None:
            file = _File(open_shard(self._locations[shard], expected=self._sizes[shard]))
        for old, _ in sorted(self._files.items(), key=lambda item: item[1].last_read)[: 1 - _OPEN_SHARDS]:
            self._files.pop(old, None)
        self._files[shard] = file
        return file


def _open_ahead(locations: Sequence[str], sizes: Sequence[int], shard: int) -> "_File | None":
    handle = shard_cache().open(locations[shard], expected=sizes[shard], ahead=True)
    return None if handle is None else _File(handle)


class _File:
    """An open file, closed when nobody has it any more."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.last_read = 0

    def __del__(self) -> None:
        os.close(self.handle)
