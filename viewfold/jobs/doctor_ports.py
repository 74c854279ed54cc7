"""Ports that the service and Ray take by default: whether they are free, and if not who listens there."""

import errno
import socket
from contextlib import suppress
from pathlib import Path

from viewfold.jobs.doctor_finding import Finding, note, ok, reason

PORTS = {
    8000: ("viewfold serve", "give another one, such as `viewfold serve --port 8001`"),
    8265: ("Ray's dashboard and jobs", "that is sound if a Ray head runs here; else `ray stop`, or --dashboard-port"),
    6379: ("a Ray head", "that is sound if a Ray head runs here; else `ray stop`, or `ray start --head --port`"),
}
"""For each port who takes it, and what to do where it is taken."""
_LISTENS = "0A"  # the state of a socket in /proc/net/tcp


def ports() -> list[Finding]:
    """A finding for each of `PORTS`; a port that is taken stops nothing that could not be told to use another."""
    return [port(number, taker, cure) for number, (taker, cure) in PORTS.items()]


def port(number: int, taker: str, cure: str) -> Finding:
    """Whether a server could listen at the port on all of this machine's addresses."""
    what = f"port {number}"
    with socket.socket() as knocker:
        knocker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that are closing do not count
        try:
            knocker.bind(("", number))
            return ok(what, f"free, for {taker}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return note(what, f"cannot be taken ({reason(error)})", cure)
    return note(what, f"taken by {listener(number)}; {taker} takes it by default", cure)


def listener(number: int) -> str:
    """Name and id of the process that listens at a port, as far as this user may see it."""
    sockets = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _inodes(Path("/proc/net", table), number)}
    for handle in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # a process of another user, or one that ended meanwhile
            if str(handle.readlink()) in sockets:
                process = handle.parents[1]
                return f"{(process / 'comm').read_text(encoding='utf-8').strip()} (process {process.name})"
    return "a process that this user cannot see"


def _inodes(table: Path, number: int) -> list[str]:
    if not table.is_file():
        return []
    rows = [line.split() for line in table.read_text(encoding="utf-8").splitlines()[1:]]
    return [row[9] for row in rows if row[3] == _LISTENS and int(row[1].rpartition(":")[2], 16) == number]
