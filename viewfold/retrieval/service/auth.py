"""Who may ask: bearer keys, compared in constant time; without keys, this machine alone.

A browser on this machine carries out what any page asks of it. So without keys the Host must be one of this machine's
own names (else a page whose name was made to resolve to 127.0.0.1 could read along), and a request that a page of
another origin sent is refused.
"""

import base64
import hmac
import os
import re
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path

from starlette.datastructures import Headers

from viewfold.errors import InvalidInput
from viewfold.retrieval.service.config import ServiceConfig
from viewfold.retrieval.service.failures import Forbidden, Unauthorized

VARIABLE = "VIEWFOLD_SERVICE_KEYS"
OPEN_PATHS = ("/healthz", "/readyz", "/", "/openapi.json")
"""What needs no key: the probes, the page, which asks its user for one, and what is the same for every index."""
_SHORTEST = 16
_HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::[0-9]+)?")


class Keys:
    """The keys of a service; none at all where only this machine may ask."""

    def __init__(self, keys: tuple[str, ...], host: str) -> None:
        """`host` is where the service listens.

        Raises:
            InvalidInput: no keys, and others than this machine could ask; or a key too short to be a secret.
        """
        if not keys and not is_loopback(host):
            raise InvalidInput(
                f"host {host}: others than this machine could ask, so keys are needed; name a file of keys (keys_file) "
                f"or set {VARIABLE}, or listen on 127.0.0.1"
            )
        if any(len(key) < _SHORTEST or not key.isascii() for key in keys):
            raise InvalidInput(f"a key has fewer than {_SHORTEST} characters, or others than ASCII; take a longer one")
        self._keys = tuple(key.encode() for key in keys)

    def check(self, path: str, headers: Headers) -> None:
        """Let the request pass.

        Raises:
            Unauthorized: no key, or a wrong one.
            Forbidden: there are no keys, and it came from a page of another origin or for another host.
        """
        if not self._keys:
            _check_origin(path, headers)
        elif not is_open(path) and not self._known(headers.get("authorization", "")):
            raise Unauthorized("send one of the service's keys as `Authorization: Bearer KEY`")

    def _known(self, authorization: str) -> bool:
        scheme, _, credentials = authorization.partition(" ")
        given = _password(credentials) if scheme.lower() == "basic" else credentials.strip().encode()
        # All keys are compared, so that the time tells nothing about which one was nearly right.
        matches = [hmac.compare_digest(given, known) for known in self._keys]
        return scheme.lower() in {"bearer", "basic"} and any(matches)


def read_keys(settings: ServiceConfig) -> Keys:
    """The keys of the file that the settings name, or else of the environment.

    Raises:
        InvalidInput: a file or a variable that holds no key, a file that is not there; and what `Keys` raises.
    """
    if settings.keys_file is None:
        return Keys(_of_environment(), settings.host)
    path = Path(settings.keys_file)
    if not path.is_file():
        raise InvalidInput(f"{path}: no such file; write one key a line into it")
    try:
        lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError:
        raise InvalidInput(f"{path}: not a text file; write one key a line into it") from None
    keys = tuple(line for line in lines if line)
    if not keys:
        raise InvalidInput(f"{path}: holds no key; write one a line into it")
    return Keys(keys, settings.host)


def _of_environment() -> tuple[str, ...]:
    text = os.environ.get(VARIABLE)
    keys = tuple(re.findall(r"[^\s,]+", text or ""))
    if text is not None and not keys:  # a secret that did not arrive must not open the service
        raise InvalidInput(f"{VARIABLE} is set and holds no key; put one into it, or unset it")
    return keys


@lru_cache(maxsize=64)
def _password(credentials: str) -> bytes:
    """The key of a client that can send it in an address alone, as in `http://x:KEY@host/`."""
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2]
    except ValueError:
        return b""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_open(path: str) -> bool:
    """Whether a path needs no key."""
    return path in OPEN_PATHS or path.startswith("/static/")


def _check_origin(path: str, headers: Headers) -> None:
    host = headers.get("host", "")
    name = _HOST.fullmatch(host)
    if name is None or not is_loopback(name[1]):
        raise Forbidden(f"this service has no keys and answers to names of this machine alone, not to {host!r}")
    origin = headers.get("origin")
    if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
        raise Forbidden(f"this service has no keys and takes no requests from pages of {origin}")
    # An image, a script or a link of another page brings no Origin; browsers say all the same where it came from.
    followed = path == "/" and headers.get("sec-fetch-mode") == "navigate"
    if headers.get("sec-fetch-site") in {"cross-site", "same-site"} and not followed:
        raise Forbidden("this service has no keys and takes no requests from pages of others")
