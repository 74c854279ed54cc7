"""Remote stores by fsspec, whose one importer this is: what a shard is there, which there are, and its bytes.

Every request has a timeout, every failure goes through `persist`, and a transfer that is cut goes on at the byte where
it stopped. Threads and forked processes may call all of this: each process has file systems of its own, because an
event loop and its connections do not survive a fork.
"""

import importlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from viewfold.errors import MissingDependency, ShardError
from viewfold.pipeline.remote.retries import Patience, ShortBody, persist
from viewfold.pipeline.remote.urls import PACKAGES, file_name, scheme, shown

_RANGE = 16 << 20  # one request each to stores that are read by range; half as much after each failure
_PIECE = 1 << 20
_SAFE_IN_URL = "%/:?#[]@!$&'()*+,;=~"
_IDENTITIES = (
    "ETag", "etag", "md5Hash", "xet_hash", "blob_id", "Last-Modified", "LastModified", "updated", "mtime", "created",
)  # fmt: skip
"""What stores call it, the surest first."""

# File systems of other processes stay here too: closing in a forked child what its parent uses would break both.
_opened: dict[tuple[int, str, float], Any] = {}


class Facts(NamedTuple):
    """What a store says of a shard."""

    size: int
    """Bytes."""
    identity: str
    """Changes when the shard does (an ETag, or a time); empty where the store has neither."""


def look(url: str, *, patience: Patience | None = None) -> Facts:
    """Size and identity, by one small request.

    Raises:
        ShardError: not there, refused, or not to be had in spite of `patience`.
        MissingDependency: the package of the URL's scheme is not installed.
    """
    patience = patience or Patience()
    system = _file_system(url, patience)
    info = persist(url, lambda: system.info(_address(url)), patience)
    if info.get("type") == "directory":
        raise ShardError(file_name(url), f"is a folder at {shown(url)}; end it with / for the shards in it")
    if info.get("size") is None:
        raise ShardError(file_name(url), f"cannot be read at {shown(url)}: the server does not say how large it is")
    return Facts(int(info["size"]), _identity(info))


def listing(pattern: str, *, patience: Patience | None = None) -> list[str]:
    """URLs that match a glob, sorted; of a web address, those among the links of its folder's page.

    Raises:
        ShardError: refused, or not to be had in spite of `patience`.
        MissingDependency: the package of the URL's scheme is not installed.
    """
    patience = patience or Patience()
    system = _file_system(pattern, patience)
    found = persist(pattern, lambda: system.glob(_address(pattern)), patience)
    return sorted(name if "://" in name else f"{scheme(pattern)}://{name.lstrip('/')}" for name in found)


def fetch(url: str, facts: Facts, write: Callable[[int, bytes], None], *, patience: Patience | None = None) -> None:
    """Hand every byte to `write(offset, piece)`, in order; from 0 again if the shard changes on the way.

    `facts` are what `look` said of the shard just now.

    Raises:
        ShardError: another length, not there, refused, or not to be had in spite of `patience`; what `write` raises.
        MissingDependency: the package of the URL's scheme is not installed.
    """
    patience = patience or Patience()
    transfer = _Transfer(url, facts, write, _file_system(url, patience))
    persist(url, transfer.go_on, patience, reached=lambda: transfer.done)


def load(url: str) -> None:
    """Import what the URL's scheme needs. A process that forks while a thread imports leaves its child a held lock.

    Raises:
        MissingDependency: it is not installed.
    """
    name = scheme(url)
    for package in ("fsspec", PACKAGES[name]):
        try:
            importlib.import_module(package)
        except ImportError:
            raise MissingDependency(
                f"{name}:// needs {package}, which is not installed: pip install 'viewfold[remote]'"
            ) from None


class _Transfer:
    """One shard on its way, over as many connections as it takes."""

    def __init__(self, url: str, facts: Facts, write: Callable[[int, bytes], None], system: Any) -> None:
        self.done = 0
        self._url = url
        self._size, self._identity = facts
        self._write = write
        self._system = system
        self._range = 2 * _RANGE

    def go_on(self) -> None:
        """Read from where it stopped to the end."""
        self._range = max(_PIECE, self._range // 2)
        for piece in self._streamed() if scheme(self._url).startswith("http") else self._ranges():
            if self.done + len(piece) > self._size:
                raise self._wrong_length(f"more than {self._size}")
            self._write(self.done, piece)
            self.done += len(piece)
        if self.done < self._size:
            raise ShortBody(f"the transfer ended after {self.done} of {self._size} bytes")

    def _streamed(self) -> Iterator[bytes]:
        """One request for all that is missing."""
        if self.done == self._size:
            return
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={self.done}-"} if self.done else {})}
        # block_size=0 gives the body as it comes; with a size fsspec does not ask for it first.
        with self._system.open(_address(self._url), "rb", block_size=0, size=self._size, headers=headers) as file:
            start, total = _extent(file.r.status, file.r.headers)
            self._compare(total, _identity(file.r.headers))
            if not 0 <= start <= self.done:
                reason = f"cannot be read at {shown(self._url)}: the server answers bytes that were not asked for"
                raise ShardError(file_name(self._url), reason)
            skip = self.done - start  # a server without ranges begins at 0 each time
            while piece := file.read(min(_PIECE, skip) if skip else _PIECE):
                if skip:
                    skip -= len(piece)
                else:
                    yield piece

    def _ranges(self) -> Iterator[bytes]:
        """A request for each range."""
        with self._system.open(_address(self._url), "rb", cache_type="none") as file:
            file.seek(self.done)
            while piece := file.read(min(self._range, self._size - self.done)):
                yield piece
        # Not every store pins a version for as long as a file is open: a mixture shows by what it is now.
        info = self._system.info(_address(self._url))
        self._compare(info["size"], _identity(info))

    def _compare(self, total: int | None, identity: str) -> None:
        """Refuse another length; begin anew where the bytes so far are of another version."""
        if total is not None and total != self._size:
            raise self._wrong_length(str(total))
        before, self._identity = self._identity, identity
        if self.done and identity != before:
            self.done = 0
            raise ShortBody("it changed while it was fetched")

    def _wrong_length(self, found: str) -> ShardError:
        return ShardError(
            file_name(self._url),
            f"has {found} bytes at {shown(self._url)} where {self._size} were announced; index it again",
        )


def _file_system(url: str, patience: Patience) -> Any:
    """This process's file system for the scheme of `url`."""
    name = scheme(url).replace("https", "http")
    key = (os.getpid(), name, patience.stall_s)
    if key not in _opened:
        load(url)
        made = _class(name)(skip_instance_cache=True, **_options(name, patience.stall_s))
        if name == "s3":
            made.retries = 1
        _opened.setdefault(key, made)  # of two threads that both made one; neither has connected yet
    return _opened[key]


def _class(name: str) -> Any:
    if name == "gs":
        # What gcsfs offers asks for the type of each bucket over gRPC, which neither survives a fork nor has a timeout.
        from gcsfs.core import GCSFileSystem

        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it prints a traceback of what it raises
        return GCSFileSystem
    import fsspec

    return fsspec.get_filesystem_class(name)


def _options(name: str, stall_s: float) -> dict[str, Any]:
    """What bounds every request. Retries are ours: those of a package, where it lets us, are put off."""
    if name == "s3":
        once = {"connect_timeout": stall_s, "read_timeout": stall_s, "retries": {"total_max_attempts": 1}}
        return {"config_kwargs": once, "use_listings_cache": False}
    if name in ("http", "gs"):
        import aiohttp

        limits = aiohttp.ClientTimeout(total=None, sock_connect=stall_s, sock_read=stall_s)
        if name == "gs":
            return {"requests_timeout": limits, "use_listings_cache": False}
        # The URL goes out as it was given: the signature of a signed one covers its spelling.
        return {"encoded": True, "client_kwargs": {"timeout": limits, "trust_env": True}}
    return {}


def _address(url: str) -> str:
    return quote(url, safe=_SAFE_IN_URL) if scheme(url).startswith("http") else url


def _identity(info: Mapping[str, Any]) -> str:
    return next((str(info[name]) for name in _IDENTITIES if info.get(name)), "")


def _extent(status: int, headers: Mapping[str, str]) -> tuple[int, int | None]:
    """Where the body of an answer begins (-1: a part, not said which), and how long the whole is (None: not said)."""
    if status == 206:
        part = re.match(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
        return (int(part[1]), None if part[2] == "*" else int(part[2])) if part else (-1, None)
    length = headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None
