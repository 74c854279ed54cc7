"""What the gates found: one row for each gate and set of queries, as a table, as plain data, as one line."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

FORMAT = 1
"""Version of `gates.json`."""


@dataclass(frozen=True)
class Difference:
    """What the challenger is above the champion."""

    value: float
    low: float | None
    """Lower end of the 95 % interval, paired on the same queries; None where there is none."""
    high: float | None


@dataclass(frozen=True, kw_only=True)
class GateRow:
    """One gate on one set of queries."""

    gate: str
    queries: str
    """`queries`, the challenger's own; `remembered`, the champion's; `index`, no queries but the bundle's facts."""
    champion: float | None
    challenger: float | None
    """None where it could not be measured."""
    difference: Difference | None
    limit: str
    """What is asked, in words."""
    verdict: Literal["passed", "failed", "skipped"]
    reason: str
    """Why it failed or was skipped."""


@dataclass(frozen=True)
class Verdict:
    """Whether a version may become the champion."""

    passed: bool
    rows: tuple[GateRow, ...]
    notes: tuple[str, ...] = ()
    """What a reader of the rows should know."""

    @classmethod
    def of(cls, rows: Sequence[GateRow], notes: Sequence[str] = ()) -> "Verdict":
        """It passes where no row failed."""
        return cls(all(row.verdict != "failed" for row in rows), tuple(rows), tuple(notes))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        rows = [asdict(row) for row in self.rows]
        return {
            "format": FORMAT,
            "passed": self.passed,
            "reason": self.reason,
            "rows": rows,
            "notes": list(self.notes),
        }

    @property
    def reason(self) -> str:
        """One line: what failed, or that nothing did."""
        failed = [f"{row.gate} on {row.queries}: {row.reason}" for row in self.rows if row.verdict == "failed"]
        if failed:
            return "; ".join(failed)
        skipped = [row for row in self.rows if row.verdict == "skipped"]
        if not self.rows:
            return "no gate has anything to ask of it"
        left_out = f", {len(skipped)} skipped" if skipped else ""
        return f"{len(self.rows) - len(skipped)} of {len(self.rows)} gates passed{left_out}"

    def table(self) -> str:
        """The rows as a table of text, then the reasons and the notes."""
        lines = [["gate", "queries", "champion", "challenger", "difference", "limit", "verdict"]]
        lines += [
            [
                row.gate,
                row.queries,
                _number(row.champion),
                _number(row.challenger),
                _difference(row.difference),
                row.limit,
                row.verdict,
            ]
            for row in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        text += [f"{row.gate} on {row.queries} {row.verdict}: {row.reason}" for row in self.rows if row.reason]
        return "\n".join([*text, *(f"note: {note}" for note in self.notes), self.summary])

    @property
    def summary(self) -> str:
        """`passed` or `refused`, and why."""
        return f"{'passed' if self.passed else 'refused'}: {self.reason}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:z.3f}"


def _difference(found: Difference | None) -> str:
    if found is None:
        return "-"
    ends = "" if found.low is None else f" [{found.low:+z.3f}, {found.high:+z.3f}]"
    return f"{found.value:+z.3f}{ends}"
