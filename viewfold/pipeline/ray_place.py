"""Whether Ray can be had where it is asked for, seen before it is asked: it would wait for minutes, and say little."""

import os
import shutil
import socket
import tempfile
from pathlib import Path

from viewfold.errors import NO_ROOM, InvalidInput

ADDRESS = "RAY_ADDRESS"
LOCAL = "local"
LEAST_BYTES = 50_000_000
"""Of room for its sessions. With less, Ray waits for files that its own processes could not write."""


def look_at(address: str) -> None:
    """Fail where nobody listens at `address`, or, for `LOCAL`, where there is no room on this machine.

    Raises:
        OSError: nobody listens.
        InvalidInput: there is no room.
    """
    if address == LOCAL:
        _require_room()
        return
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def not_started(address: str, error: Exception) -> Exception:
    """What to raise for an error of Ray's start."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return error
    if address == LOCAL:
        why, cure = "Ray does not start on this machine", "`viewfold doctor` looks at what it needs"
    else:  # refused, timed out, no such host, no route, another version
        why = f"{ADDRESS}={address}: no Ray cluster answers there"
        cure = f"correct it, set RAY_AUTH_MODE=token if it asks for one, or unset {ADDRESS} to work on this machine"
    return InvalidInput(f"{why} ({first_line(error)}); {cure}")


def first_line(error: Exception) -> str:
    """What an error of Ray says, less its explanations and stacks."""
    return str(error).strip().partition("\n")[0]


def _require_room() -> None:
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), "TMPDIR")
    place = Path(os.environ.get(variable) or tempfile.gettempdir())
    if place.is_dir() and (free := shutil.disk_usage(place).free) < LEAST_BYTES:
        raise InvalidInput(
            f"{place}: {free / 1e6:.1f} MB are free, and Ray needs {LEAST_BYTES / 1e6:.0f} for its sessions; make room "
            f"there, or set {variable} to a folder on another disk"
        )
