"""Published weights from where they are published; without a way there, from what is cached, or one line in seconds."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, get_session

from viewfold.errors import NO_ROOM, InvalidInput

HUB_URL = constants.ENDPOINT
"""Of Hugging Face's hub, or what HF_ENDPOINT names in its place."""
_PATIENCE_S = 5.0
_SILENCE_S = 20.0
_LONGEST = 300


@contextmanager
def reachable(what: str, hub: str = "") -> Iterator[None]:
    """Around a download of `what`: errors of the way there become one line that says what to do.

    `hub` is the address of Hugging Face's hub where the weights lie there. Its library tries five times and for most of
    a minute where nobody answers; so it is asked once whether it does, and if not the cache alone is looked into.

    Raises:
        InvalidInput: the weights cannot be reached from here.
        OSError: there is no room for them.
    """
    why = _silence(hub) if hub else ""
    try:
        with _patience(), _cache_alone(bool(why)):
            yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        raise InvalidInput(
            f"{what} cannot be downloaded from here ({why or _sentence(error)}); download them elsewhere and name the "
            "file with --weights, or set HTTPS_PROXY if there is a proxy"
        ) from None


def _silence(hub: str) -> str:
    """Why the hub cannot be asked; the empty text if it can."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, and its cache does not hold them"
    try:
        get_session().head(hub, timeout=_PATIENCE_S)
    except Exception as error:  # of its HTTP library, which is another one from version to version
        return f"{hub} does not answer: {_sentence(error)}, and the cache of huggingface_hub does not hold them"
    return ""


@contextmanager
def _cache_alone(wanted: bool) -> Iterator[None]:
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or wanted
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def _patience() -> Iterator[None]:
    """For downloads that set no limit of their own and would wait for ever behind a wall that drops what is sent."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SILENCE_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _sentence(error: Exception) -> str:
    """The first sentence of what a library says, whole where it is not a page long."""
    text = " ".join(str(error).split()).partition(". ")[0] or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
