"""What a look at the machine says, and looks that never raise and never hang."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "MISSING"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    what: str
    level: Level
    """`note`: ordinary work goes on without it, or slower; `MISSING`: it stops there."""
    says: str
    cure: str = ""


Check = Callable[[], Sequence[Finding]]


def ok(what: str, says: str) -> Finding:
    """All is well."""
    return Finding(what, "ok", says)


def note(what: str, says: str, cure: str) -> Finding:
    """Worth knowing; nothing stops."""
    return Finding(what, "note", says, cure)


def missing(what: str, says: str, cure: str) -> Finding:
    """Ordinary work, or what was asked for, stops here."""
    return Finding(what, "MISSING", says, cure)


def reason(error: OSError) -> str:
    """Why a file or a server cannot be had, in a few words."""
    return error.strerror or str(error) or type(error).__name__


def looked(what: str, check: Check) -> list[Finding]:
    """What `check` finds; its failure is a finding too."""
    try:
        return list(check())
    # A broken package or machine is what is looked for here, and it raises what it likes while it is imported or asked.
    except Exception as error:
        says = " ".join(f"{type(error).__name__}: {error}".split())
        absent = isinstance(error, ModuleNotFoundError)
        cure = "pip install 'viewfold[all]'" if absent else "install what it names again, as constraints.txt has it"
        return [missing(what, says, cure)]


def looked_within(limit_s: float, checks: Mapping[str, Check]) -> list[Finding]:
    """What all checks find, side by side and in their order; one without an answer after `limit_s` is a finding.

    A name server or a network disk may hang for minutes in spite of the timeouts that sockets have.
    """
    answers: dict[str, list[Finding]] = {}

    def look(what: str, check: Check) -> None:
        answers[what] = looked(what, check)

    threads = [threading.Thread(target=look, args=item, daemon=True) for item in checks.items()]
    for thread in threads:
        thread.start()
    until_s = time.monotonic() + limit_s
    for thread in threads:
        thread.join(max(0.0, until_s - time.monotonic()))
    slow = {
        what: [missing(what, f"no answer within {limit_s:g} s", "look at its network, name server or disk")]
        for what in checks
    }
    return [finding for what in checks for finding in answers.get(what, slow[what])]
