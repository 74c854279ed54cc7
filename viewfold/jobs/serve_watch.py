"""A name in the registry that is followed: when it comes to mean another version, that one is served.

How the registry is asked and how a pair is loaded is handed in, so this works in one process and on a cluster.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from viewfold.errors import printable
from viewfold.jobs.pair_folders import REGISTERED
from viewfold.jobs.registry import Registry
from viewfold.retrieval.service.backend import PairInfo

Outcome = Literal["loaded", "refused", "unanswered", "answered"]


@dataclass(frozen=True)
class Watched:
    """Something that the watch has to tell."""

    outcome: Outcome
    """`loaded` and `refused` are ends of a change; `unanswered` and `answered` say that the registry went and came."""
    version: str | None
    message: str


def is_alias(source: str) -> bool:
    """Whether what `source` names can come to be another version: `models:/NAME@ALIAS`."""
    return source.startswith(REGISTERED) and "@" in source


def registry_version(source: str, home: Path) -> Callable[[], str]:
    """A question to the registry of `home`, to be asked again and again: the version that `source` names now."""
    registry = Registry(home)
    return lambda: registry.version_of(source)


def follow(
    current: Callable[[], str],
    load: Callable[[], PairInfo],
    *,
    seen: str | None,
    every_s: float,
    stop: threading.Event,
    report: Callable[[Watched], None],
) -> None:
    """Every `every_s` seconds until `stop`, ask for the `current` version; when it is not the one `seen` last, `load`.

    What cannot be loaded is reported and left alone until the version changes again; `load` leaves what is served as it
    is. A registry that does not answer is reported once, and that it answers again. Blocks: give it a daemon thread.
    """
    answered = True
    while not stop.wait(every_s):
        try:
            version = current()
        # Whatever is wrong with a registry or a version, requests are answered and the next look may be better.
        except Exception as error:
            if answered:
                report(Watched("unanswered", None, _sentence(error)))
            answered = False
            continue
        if not answered:
            report(Watched("answered", version, "the registry answers again"))
        answered = True
        if version != seen:
            end = _loaded(load, version)
            seen = end.version  # of what was loaded: the name may have moved on between the question and the opening
            report(end)


def _loaded(load: Callable[[], PairInfo], version: str) -> Watched:
    try:
        info = load()
    except Exception as error:
        return Watched("refused", version, _sentence(error))
    return Watched("loaded", info.version, f"pair {info.id}: encoder {info.encoder_id}, index {info.bundle.id}")


def _sentence(error: Exception) -> str:
    return printable(" ".join(str(error).split())) or type(error).__name__
