"""Where shards lie: absolute paths and URLs, and how a user's patterns become them."""

import glob
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

from viewfold.errors import InvalidInput, ShardError
from viewfold.pipeline.remote.store import listing, look
from viewfold.pipeline.remote.urls import file_name, scheme, shown

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_FILE = re.compile(r"file://", re.IGNORECASE)
_MANY = 16  # requests at a time, to see that each of many URLs is there


def is_remote(location: str) -> bool:
    """Whether a location is a URL that the shard cache serves, rather than a path (or a file:// URL of one)."""
    return "://" in location and not _FILE.match(location)


def local_path(location: str) -> Path:
    """The path of a location that is not remote.

    Raises:
        InvalidInput: a file:// URL of another host.
    """
    if not _FILE.match(location):
        return Path(location)
    url = urlsplit(location)
    if url.netloc not in ("", "localhost") or not url.path:
        raise InvalidInput(f"{location}: a file:// URL names a path on this machine: file:///data/a.tar")
    return Path(unquote(url.path))


def shard_name(location: str) -> str:
    """File name without `.tar`: what names a shard wherever it lies."""
    return Path(file_name(location)).stem


def stamp(location: str) -> str:
    """Size and time, of a URL size and version: changes when the shard does, without reading it.

    Raises:
        ShardError: the shard is not there, or its store does not answer.
        MissingDependency: the package of the URL's scheme is not installed.
    """
    if is_remote(location):
        facts = look(location)
        return f"{facts.size}-{facts.identity}"
    path = local_path(location)
    try:
        stat = path.stat()
    except OSError as error:
        raise ShardError(path.name, f"cannot be read at {path} ({error.strerror})") from None
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def stamps(locations: Sequence[str]) -> dict[str, str]:
    """The `stamp` of each, many asked for at a time.

    Raises:
        ShardError, MissingDependency: as `stamp` does.
    """
    with ThreadPoolExecutor(_MANY) as pool:
        return dict(zip(locations, pool.map(stamp, locations), strict=True))


def expand_shards(spec: str | Sequence[str]) -> list[str]:
    """Locations of the shards that files, folders (their `*.tar`), globs and brace ranges name, each once.

    They come in the order given, sorted inside a folder or glob. A range is written `a-{000000..000005}.tar`. A URL is
    a folder if it ends in `/`, and may be a glob where its store can list; of a web address, the page of the folder is
    what is listed. A shard at a URL is asked for, so that one that is missing shows now.

    Raises:
        InvalidInput: a part that names no shard, or a scheme that is not read.
        MissingDependency: the package of the URL's scheme is not installed.
    """
    patterns = [
        pattern for part in ([spec] if isinstance(spec, str) else spec) for pattern in _expand_braces(_readable(part))
    ]
    single = [pattern for pattern in patterns if is_remote(pattern) and not _is_glob(pattern)]
    with ThreadPoolExecutor(_MANY) as pool:
        list(pool.map(look, single))
    found: dict[str, None] = {}
    for pattern in patterns:
        matches = _matches(pattern)
        if not matches:
            raise InvalidInput(
                f"{shown(pattern)}: no shard there; give a .tar file, a folder of them, a glob or a brace range"
            )
        found.update(dict.fromkeys(matches))
    if not found:
        raise InvalidInput("no shard named; give .tar files, folders of them, globs or brace ranges")
    return list(found)


def _readable(part: str) -> str:
    """The part, if it is a path or of a known scheme."""
    if is_remote(part) or part.startswith("pipe:"):
        scheme(part)
    return part


def _matches(pattern: str) -> list[str]:
    if is_remote(pattern):
        folder = f"{pattern}*.tar" if pattern.endswith("/") else pattern
        return listing(folder) if _is_glob(pattern) else [pattern]
    path = local_path(pattern).absolute()
    if path.is_dir():
        return sorted(map(str, path.glob("*.tar")))
    return [str(path)] if path.is_file() else sorted(glob.glob(str(path)))


def _is_glob(url: str) -> bool:
    """Whether a URL is a folder or a pattern; in a web address only * makes one, for its query may hold any sign."""
    path = url.split("://", 1)[1].partition("/")[2]
    return url.endswith("/") or "*" in path or ("[" in path and not scheme(url).startswith("http"))


def _expand_braces(text: str) -> list[str]:
    match = _BRACES.search(text)
    if match is None:
        return [text]
    first, last = match[1], match[2]
    width = len(first) if first.startswith("0") else 0
    numbers = [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    return [text[: match.start()] + number + rest for number in numbers for rest in _expand_braces(text[match.end() :])]
