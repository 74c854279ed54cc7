"""File locks that die with the process that holds them, however it dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_owned: set[int] = set()


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file `path` alone; it is there only while somebody holds it or waits for it."""
    lock = _locked(path)
    try:
        yield
    finally:
        if _names(path, lock):
            path.unlink(missing_ok=True)
        _release(lock)


def hold(path: Path, *, flags: int = os.O_RDONLY) -> int:
    """Open a file as one of those who hold it, until it is closed.

    Raises:
        FileNotFoundError: it is not there.
    """
    handle = os.open(path, flags)
    fcntl.flock(handle, fcntl.LOCK_SH)
    return handle


def is_held(path: Path) -> bool:
    """Whether anybody, this process included, holds the file or has locked it."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    _owned.add(handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        _release(handle)
    return False


def _locked(path: Path) -> int:
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        _owned.add(lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _names(path, lock):
                return lock
        except BaseException:
            _release(lock)
            raise
        _release(lock)  # who held it has removed it: lock the file that is there now


def _names(path: Path, lock: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(lock))
    return False


def _release(lock: int) -> None:
    _owned.discard(lock)
    fcntl.flock(lock, fcntl.LOCK_UN)  # a child forked meanwhile has the same lock, and closing ours would not lift it
    os.close(lock)


def _leave_to_parent() -> None:
    """A child that kept the locks its parent held at the fork would still hold them once the parent was killed."""
    for lock in _owned:
        os.close(lock)
    _owned.clear()


os.register_at_fork(after_in_child=_leave_to_parent)
