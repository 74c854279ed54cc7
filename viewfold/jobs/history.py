"""The versions of a model as a table: how each was judged, who is champion, since when and in whose place."""

from collections.abc import Sequence
from typing import Any

from viewfold.jobs.registry import CHAMPION, VersionFacts

SHOWN = ("validation_status", "run", "parent", "replaces", "champion_since", "champion_until", "validation")
"""Tags that are told."""


def as_data(versions: Sequence[VersionFacts]) -> list[dict[str, Any]]:
    """Plain data for JSON, in the order of `versions`."""
    return [
        {
            "version": one.version,
            "created": one.created.isoformat(timespec="seconds"),
            "aliases": list(one.aliases),
            **{name: one.tags.get(name) or None for name in SHOWN},
        }
        for one in versions
    ]


def table(versions: Sequence[VersionFacts]) -> str:
    """One line a version, and below them what the gates said of each."""
    lines = [["version", "created", "aliases", "status", "began from", "champion", "run"]]
    for one in versions:
        row = [one.version, f"{one.created:%Y-%m-%d %H:%M}", ", ".join(one.aliases), one.tags.get("validation_status")]
        lines.append([cell or "-" for cell in (*row, one.tags.get("parent"), _reign(one), one.tags.get("run"))])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*text, *(f"{one.version}: {told}" for one in versions if (told := one.tags.get("validation")))])


def _reign(version: VersionFacts) -> str:
    since, until = version.tags.get("champion_since"), version.tags.get("champion_until")
    if CHAMPION in version.aliases:  # a run may move the alias by itself, without a tag
        return f"since {_short(since)}" if since else "now"
    return f"{_short(since)} to {_short(until)}" if since and until else ""


def _short(stamp: str | None) -> str:
    return "" if stamp is None else stamp[:16].replace("T", " ")
