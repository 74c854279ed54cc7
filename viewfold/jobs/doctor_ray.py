"""Ray: whether it can be imported, whether the cluster of RAY_ADDRESS answers, and whether there is a token for it."""

import os
import socket
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from viewfold.jobs.doctor_finding import Finding, missing, note, ok, reason

TIMEOUT_S = 3.0
_CURE = "correct RAY_ADDRESS (head:6379 or ray://head:10001), or unset it to work on this machine"


def ray_package(have: Mapping[str, str]) -> list[Finding]:
    """Nothing where Ray is not installed, which is said of its extra; raises what a broken one raises."""
    if "ray" not in have:
        return []
    import_module("ray")
    return [ok("ray", f"{have['ray']} can be imported")]


def ray_cluster(environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """Whether somebody listens at RAY_ADDRESS, and how this machine would show that it may enter."""
    address = environ.get("RAY_ADDRESS", "")
    if address in ("", "local"):
        return [ok("ray cluster", "started on this machine when needed (RAY_ADDRESS names another)")]
    found = _running(environ) if address == "auto" else _knock(address)
    return [found] if found.level == "MISSING" else [found, token(environ)]


def token(environ: Mapping[str, str]) -> Finding:
    """Where the token comes from, by the order in which Ray looks; never the token."""
    mode = environ.get("RAY_AUTH_MODE", "").lower()
    named = environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named).expanduser() if named else Path.home() / ".ray" / "auth_token"
    source = "RAY_AUTH_TOKEN" if environ.get("RAY_AUTH_TOKEN") else str(path) if path.is_file() else None
    cure = "set RAY_AUTH_TOKEN, or write the cluster's token to ~/.ray/auth_token"
    if mode not in ("", "token"):
        cure = "set RAY_AUTH_MODE=token on all machines where others reach the cluster's network"
        return note("ray token", "none is shown: whoever reaches the cluster runs what they like on it", cure)
    if source is not None:
        return ok("ray token", f"from {source}")
    if named:
        return missing("ray token", f"RAY_AUTH_TOKEN_PATH={named}: no such file", cure)
    if mode == "token":
        return missing("ray token", "RAY_AUTH_MODE=token, and there is none", cure)
    return note("ray token", "there is none: a cluster that asks for one lets nobody in", cure)


def _running(environ: Mapping[str, str]) -> Finding:
    """The cluster that `auto` means: the one that was started on this machine last."""
    folder = environ.get("RAY_TMPDIR") or environ.get("TMPDIR") or "/tmp"
    try:
        address = Path(folder, "ray", "ray_current_cluster").read_text(encoding="utf-8").strip()
    except OSError:
        cure = "`ray start --head`, or unset RAY_ADDRESS: Ray then starts by itself"
        return missing("ray cluster", "RAY_ADDRESS=auto, and no cluster was started on this machine", cure)
    return _knock(address)


def _knock(address: str) -> Finding:
    scheme, _, place = address.rpartition("://")
    host, _, port = place.rpartition(":")
    if scheme not in ("", "ray") or not host or not port.isdigit():
        return missing("ray cluster", f"RAY_ADDRESS={address}: not an address that work can be sent to", _CURE)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=TIMEOUT_S).close()
    except (OSError, OverflowError, UnicodeError) as error:  # a port or a name that none can have
        why = reason(error) if isinstance(error, OSError) else str(error)
        return missing("ray cluster", f"nobody answers at {address} ({why})", _CURE)
    return ok("ray cluster", f"somebody listens at {address}")
