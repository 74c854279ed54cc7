"""A card as a table of text."""

from typing import Any


def summary(card: dict[str, Any]) -> str:
    """The card's measures as a table of text: each encoder's value with its interval, and chance."""
    names = list(card["measures"])
    tables = {name: {measure["name"]: measure for measure in card["measures"][name]} for name in names}
    rows = [["measure", *names, "chance"]]
    for name in dict.fromkeys(name for table in tables.values() for name in table):
        found = [table.get(name) for table in tables.values()]
        chance = next(measure["chance"] for measure in found if measure)
        rows.append([name, *map(_cell, found), f"{chance:z.3f}"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"{one['encoder']}, no {one['what']}: {one['why']}" for one in card["skipped"]]
    return "\n".join(lines)


def _cell(measure: dict[str, Any] | None) -> str:
    if measure is None:
        return "-"
    interval = "" if measure["low"] is None else f" [{measure['low']:z.3f}, {measure['high']:z.3f}]"
    return f"{measure['value']:z.3f}{interval}"
