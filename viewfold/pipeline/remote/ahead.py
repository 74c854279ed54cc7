"""Things opened before they are needed, by a few threads that live only while there is something to open."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from viewfold.errors import ViewfoldError

T = TypeVar("T")

_THREADS = 2
_MOST = 16  # opened and not yet taken
_REST_S = 1.0  # after one for which there was no room


class ReadAhead(Generic[T]):
    """Shards on their way, by number, in the order of need. Belongs to the process that made it."""

    def __init__(self, open_ahead: Callable[[int], T | None]) -> None:
        """`open_ahead` gives None where there is no room now; if it raises a ViewfoldError, so will who needs it."""
        self._open_ahead = open_ahead
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._wanted: dict[int, None] = {}
        """In the order of need, from its being asked for to its being taken."""
        self._opening: set[int] = set()
        self._opened: dict[int, T] = {}
        self._threads = 0
        self._rests_until_s = 0.0

    def is_mine(self) -> bool:
        """Whether this process made it: neither threads nor the state of a lock come along with a fork."""
        return self._process == os.getpid()

    def want(self, shards: Sequence[int]) -> None:
        """Open these after what is wanted already."""
        with self._lock:
            self._wanted.update((shard, None) for shard in shards if shard not in self._wanted)
            self._start()

    def take(self, shard: int) -> T | None:
        """A shard that is open; None where it is not yet, and then it is left to the caller.

        What was wanted before it and is not taken yet was passed over, and is not kept for longer.
        """
        with self._lock:
            if shard not in self._wanted:
                return None
            opened = self._opened.get(shard)
            for passed in list(self._wanted):
                del self._wanted[passed]
                self._opened.pop(passed, None)
                if passed == shard:
                    break
            self._start()
        return opened

    def forget(self) -> None:
        """Open nothing more, and close what nobody has taken."""
        with self._lock:
            self._wanted.clear()
            self._opened.clear()

    def _start(self) -> None:
        due = len(self._wanted) - len(self._opened) - len(self._opening)
        while self._threads < min(_THREADS, due) and self._next() is not None:
            self._threads += 1
            threading.Thread(target=self._work, name="viewfold-read-ahead", daemon=True).start()

    def _next(self) -> int | None:
        if len(self._opened) + len(self._opening) >= _MOST or time.monotonic() < self._rests_until_s:
            return None
        return next((s for s in self._wanted if s not in self._opened and s not in self._opening), None)

    def _work(self) -> None:
        while True:
            with self._lock:
                shard = self._next()
                if shard is None:
                    self._threads -= 1
                    return
                self._opening.add(shard)
            opened, failed = None, True
            with suppress(ViewfoldError):
                opened, failed = self._open_ahead(shard), False
            with self._lock:
                self._opening.discard(shard)
                if failed:
                    self._wanted.pop(shard, None)
                elif opened is None:
                    self._rests_until_s = time.monotonic() + _REST_S
                elif shard in self._wanted:
                    self._opened[shard] = opened
