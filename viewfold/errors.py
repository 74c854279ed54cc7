"""Every error that viewfold raises on purpose.

ViewfoldError
  InvalidInput  (ValueError)    a file, option, recipe or request cannot be used: says what, where and what to do
    ShardError                  a shard, or a sample in it, cannot be read; has .shard and .key
    ArtifactMismatch            two artifacts that were not made for each other were put together
  TrainingStopped               a run was stopped for its own good (nan, collapse, too many bad samples)
  MissingDependency             an optional package is not installed; names the extra that brings it

The command line prints the message as one line and exits with 2; nobody who uses the tool sees a traceback for these.
`one_line` is that line, for what the system refuses, too: a full disk, a file in the place of a folder.
"""

import errno
import os
import shutil
from tempfile import gettempdir

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_SAYS = {
    errno.EISDIR: "is a folder, where a file is wanted; give another path",
    errno.EROFS: "the disk can only be read; name another place to write to",
}


class ViewfoldError(Exception):
    """Base of every error that viewfold raises on purpose."""


class InvalidInput(ViewfoldError, ValueError):
    """Something that a user gave cannot be used. The message says what, where, and what to do."""


class ShardError(InvalidInput):
    """A shard, or one sample in it, cannot be read."""

    def __init__(self, shard: str, reason: str, key: str | None = None) -> None:
        """`reason` ends the sentence that `shard` and `key` begin, so it needs no subject."""
        super().__init__(f"{shard}: {key}: {reason}" if key is not None else f"{shard}: {reason}")
        self.shard = shard
        self.key = key
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str, str | None]]:
        """Errors cross process borders, and the default would hand the whole message to `shard`."""
        return type(self), (self.shard, self.reason, self.key)


class ArtifactMismatch(InvalidInput):
    """An artifact was loaded beside one that it was not made with; the message names both."""


class TrainingStopped(ViewfoldError):
    """A run was stopped for its own good; the message names the step and the terms."""


class MissingDependency(ViewfoldError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


def printable(text: str) -> str:
    """`text` for a terminal: what would act on it (control and format characters, line ends, surrogates) is escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def one_line(error: Exception) -> str:
    """What the command line says of an error of ours, of the system, or of a package that is not there."""
    if isinstance(error, ModuleNotFoundError) and not isinstance(error, ViewfoldError):
        return (
            f"{error.name} is not installed: pip install 'viewfold[all]'; `viewfold doctor` says what else is missing"
        )
    if isinstance(error, UnicodeEncodeError):
        what = printable(error.object)[:200]
        return f"{what}: cannot be written as {error.encoding} by this shell's settings; set PYTHONUTF8=1 and try again"
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return printable(_no_room(error))
    if isinstance(error, OSError) and error.filename is not None:
        return printable(f"{os.fsdecode(error.filename)}: {_refusal(error)}")
    return printable(" ".join(str(error).split()))


def _refusal(error: OSError) -> str:
    if error.errno in (errno.EEXIST, errno.ENOTDIR) and not os.path.isdir(error.filename):
        return "a file lies where a folder is wanted; name another folder"
    return _SAYS.get(error.errno or 0, str(error.strerror))


def _no_room(error: OSError) -> str:
    """Names the fullest of the disks that the work writes to: by now what was half written is gone from them."""
    named = [] if error.filename is None else [os.fsdecode(error.filename)]
    places = [_existing(place) for place in (*named, os.environ.get("TMPDIR") or gettempdir(), os.curdir)]
    fullest = min(places, key=lambda place: shutil.disk_usage(place).free)
    usage, mount = shutil.disk_usage(fullest), fullest
    while not os.path.ismount(mount):
        mount = os.path.dirname(mount)
    where = "".join(f"{name}: " for name in named)
    why = "the quota of this user is used up" if error.errno == errno.EDQUOT else "no room left"
    return (
        f"{where}{why} on the disk at {mount} ({usage.free / 1e6:.1f} of {usage.total / 1e6:.1f} MB are free now); "
        "make room, and the same command goes on"
    )


def _existing(place: str) -> str:
    path = os.path.abspath(place)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return os.path.realpath(path)
