"""What is known of one night: why it was begun, which of its phases are done, how it ended. One JSON file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from viewfold.errors import InvalidInput
from viewfold.pipeline.stage import write_whole

NIGHT = "night.json"
FORMAT = 1

Outcome = Literal["promoted", "refused", "rolled back", "abandoned"]
SETTLED = ("promoted", "refused")
"""Ends after which the same data is not tried again: the gates have judged what comes of it."""


@dataclass(frozen=True)
class Night:
    """A folder HOME/nightly/NAME/DATE-HASH8; every change is on the disk before the next thing is done."""

    folder: Path
    facts: dict[str, Any]
    """`number`, `date`, `hash`, `stamps` of the shards, `champion` (the version that it begins from, or None), `replay`
    (shards that one saw), `phases` with what each found, and once it is over `outcome`, `reason` and `ended`."""

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.folder / "run"

    @property
    def number(self) -> int:
        """Larger than that of every night begun before it; 0 where an older version of viewfold began it."""
        return int(self.facts.get("number", 0))

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None while it has not."""
        found: Outcome | None = self.facts["outcome"]
        return found

    @property
    def version(self) -> str | None:
        """The version that it registered, once it has."""
        made = self.phase("run")
        return None if made is None else str(made["version"])

    def phase(self, name: str) -> dict[str, Any] | None:
        """What a phase found; None: it is not done."""
        found: dict[str, Any] | None = self.facts["phases"].get(name)
        return found

    def keep(self, name: str, found: Mapping[str, Any]) -> dict[str, Any]:
        """A phase is done."""
        self.facts["phases"][name] = {**found, "ended": now()}
        self.write()
        return dict(self.facts["phases"][name])

    def forget(self, name: str) -> None:
        """A phase is to be done again."""
        self.facts["phases"].pop(name, None)
        self.write()

    def end(self, outcome: Outcome, reason: str) -> None:
        """It is over."""
        self.facts.update(outcome=outcome, reason=reason, ended=now())
        self.write()

    def write(self) -> None:
        """Put it on the disk, whole."""
        text = json.dumps(self.facts, indent=2) + "\n"
        write_whole(self.folder / NIGHT, lambda file: file.write(text.encode()))


def begin(folder: Path, **facts: Any) -> Night:
    """A night with nothing done."""
    # Clocks are set back, by an hour or by days; without it the newest night would not be known for that long.
    number = 1 + max((night.number for night in nights(folder.parent)), default=0)
    known = {"format": FORMAT, "number": number, **facts, "began": now()}
    night = Night(folder, {**known, "phases": {}, "outcome": None, "reason": "", "ended": None})
    night.write()
    return night


def nights(home: Path) -> list[Night]:
    """The nights whose folders lie in `home`, the newest first.

    Raises:
        InvalidInput: one that this version cannot read.
    """
    # A folder that is being removed begins with a dot.
    found = [_read(file) for file in home.glob(f"*/{NIGHT}") if not file.parent.name.startswith(".")]
    return sorted(found, key=lambda night: (night.number, night.facts["began"], night.folder.name), reverse=True)


def now() -> str:
    """UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _read(file: Path) -> Night:
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        facts = None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise InvalidInput(f"{file}: not a night of this version of viewfold; move its folder away")
    return Night(file.parent, facts)
