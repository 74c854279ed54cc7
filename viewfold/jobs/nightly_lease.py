"""A lease: of all processes on all machines that share a folder one works in it, and one that died is replaced.

The file `lease.json` says who holds it and until when. A thread of the holder puts the end off as long as it lives.
"""

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from viewfold.errors import TrainingStopped
from viewfold.pipeline.stage import write_whole

LEASE = "lease.json"
_LOCK = ".lease.lock"
_LONGEST_S = 2 * 86_400  # twice the longest that `lease_minutes` may be: clocks of two machines differ
_RENEWALS = 4
"""In the time after which a lease ends."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease."""

    token: str
    """Of this holding alone."""
    host: str
    space: str
    """The boot and the process namespace in which `pid` means something; containers of one machine share its name."""
    pid: int
    started: str
    """When that process began, for a number is given to another in time; empty where the system does not say."""
    expires: float
    """Seconds since 1970."""

    def __str__(self) -> str:
        until = datetime.fromtimestamp(self.expires, UTC).isoformat(timespec="seconds")
        return f"process {self.pid} on {self.host}, until {until} unless it says that it still lives"

    def is_dead(self) -> bool:
        """Whether its time is over, or it was a process of this machine that is gone.

        An end that lies further off than any lease lasts was written by a clock that has been set back since: one that
        lives has written another by now, or will find out before its next phase.
        """
        now = time.time()
        if now >= self.expires:
            return True
        if (self.host, self.space) == (socket.gethostname(), _space()):
            return _started(self.pid) != self.started
        return self.expires - now > _LONGEST_S


class Lease:
    """The lease of a folder; `take` it, then work inside of a `with` statement."""

    def __init__(self, folder: Path, minutes: float) -> None:
        """`minutes` after the last sign of life others may take it."""
        self._file, self._seconds = folder / LEASE, 60 * minutes
        self._token = uuid.uuid4().hex
        self._over = threading.Event()
        self._renewing = threading.Thread(target=self._renew_until_over, name="lease", daemon=True)

    def take(self) -> Holder | None:
        """Take it; who holds it where somebody else does, else None."""
        with self._alone():
            other = self._holder()
            if other is not None and not other.is_dead():
                return other
            self._write()
        return None

    def require(self) -> None:
        """Put its end off.

        Raises:
            TrainingStopped: it is somebody else's now, as of one that slept for longer than a lease lasts.
        """
        with self._alone():
            holder = self._holder()
            if holder is None or holder.token != self._token:
                by = "removed" if holder is None else f"taken by {holder}"
                raise TrainingStopped(f"{self._file}: the lease was {by}; this process stops, having changed no more")
            self._write()

    def __enter__(self) -> "Lease":
        self._renewing.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._renewing.join()
        with self._alone():
            holder = self._holder()
            if holder is not None and holder.token == self._token:
                self._file.unlink()

    def _renew_until_over(self) -> None:
        while not self._over.wait(self._seconds / _RENEWALS):
            try:
                self.require()
            except TrainingStopped:
                return  # the work finds out before its next phase
            except OSError:
                continue  # a disk that is full for a while: the next turn may come in time

    def _holder(self) -> Holder | None:
        try:
            fields: dict[str, Any] = json.loads(self._file.read_text(encoding="utf-8"))
            return Holder(**fields)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):  # not ours, or of another version
            return None

    def _write(self) -> None:
        pid = os.getpid()
        expires = round(time.time() + self._seconds, 3)
        holder = Holder(self._token, socket.gethostname(), _space(), pid, _started(pid) or "", expires)
        text = json.dumps(asdict(holder), indent=2) + "\n"
        write_whole(self._file, lambda file: file.write(text.encode()))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Look and write in one step; the lock is held for a moment only, and the system drops it with its process."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with (self._file.parent / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _space() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # another system than Linux
        return ""


def _started(pid: int) -> str | None:
    """When process `pid` began, in the system's own count; empty where it does not say; None: it is gone."""
    try:
        # The name of the program, in brackets, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except FileNotFoundError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # it is there, of another user
        pass
    return ""
