"""The page of a measured invariance card: `card.json` as one HTML file that needs nothing beside it."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from viewfold import __version__
from viewfold.jobs.card_plots import MARKS, DotRow, curve_groups, decimals, dot_chart, filter_groups
from viewfold.jobs.card_verdicts import (
    IGNORED_RATIO,
    Tables,
    apart,
    beside,
    chance_of,
    comparable,
    estimate,
    headline,
    level,
    major,
)
from viewfold.jobs.card_words import BREAKS, IGNORES, OTHER, PREDICTS, SPREAD, spelled, tell

COLUMNS = {"trained": "this encoder", "against": "other encoder", "untrained": "untrained network"}

_DETAIL = re.compile(r"(hit\d+|pre_all|top5|fitted_retrieval/pre)$")
"""Measures that the tables have and the overview does without."""

SKIPPED_IN = {
    "curves": IGNORES,
    **dict.fromkeys(("classes", "rotation", "colour", "retrieval", "fitted retrieval"), PREDICTS),
    **dict.fromkeys(("domains", "outside"), BREAKS),
    **dict.fromkeys(("spread", "clusters"), SPREAD),
}
"""The section that says why a protocol was left out."""

FACTS = {
    "id": "id",
    "folder": "folder",
    "backbone": "backbone",
    "parts": "width of its parts",
    "image_size": "image size",
    "method": "method",
    "steps": "steps",
    "seed": "seed",
    "manifest_hash": "trained on manifest",
}
"""What is told of each encoder: a key of it or of its lineage, and its name."""


def card_page(card: Mapping[str, Any]) -> str:
    """One HTML page of a card (`format` 1): what the card lacks is left out, measures of unknown names are shown."""
    from jinja2 import Environment, PackageLoader

    measures, encoders, curves = card.get("measures", {}), card.get("encoders", {}), card.get("curves", {})
    tables = {role: {m["name"]: m for m in measures[role]} for role in MARKS if role in measures}
    shown = [role for role in MARKS if role in encoders]
    pages = Environment(loader=PackageLoader("viewfold.jobs", "."), autoescape=True, trim_blocks=True)
    return pages.get_template("card.html.j2").render(
        version=__version__,
        marks=MARKS,
        columns=COLUMNS,
        ignored_ratio=IGNORED_RATIO,
        measured=list(tables),
        shown=shown,
        headline=headline(tables),
        beside=beside(tables),
        facts=[(title, [_fact(encoders[role], key) for role in shown]) for key, title in FACTS.items()],
        data=card.get("data", {}),
        sections=_sections(card, tables),
        charts=_charts(tables),
        figures={
            IGNORES: curve_groups(curves, "drift", spelled),
            BREAKS: [*curve_groups(curves, "change", spelled), *filter_groups(card.get("filters", {}))],
        },
        details=[
            *((f"Lineage of the {COLUMNS[role]}", list(_flat(encoders[role].get("lineage", {})))) for role in shown),
            ("Settings of the measures", list(_flat(card.get("settings", {})))),
        ],
    )


def _sections(card: Mapping[str, Any], tables: Tables) -> list[dict[str, Any]]:
    names = dict.fromkeys(name for table in tables.values() for name in table)
    skipped = list({(one["what"], one["why"]): one for one in card.get("skipped", [])}.values())
    return [
        {
            "title": section,
            "rows": [_row(tables, name) for name in names if tell(name).section == section],
            "skipped": [one for one in skipped if SKIPPED_IN.get(one["what"], OTHER) == section],
        }
        for section in (IGNORES, PREDICTS, BREAKS, SPREAD, OTHER)
    ]


def _row(tables: Tables, name: str) -> dict[str, Any]:
    told = tell(name)
    owners = [table[name] for table in tables.values() if name in table]
    return {
        **told._asdict(),
        "n": owners[0]["n"],
        "cells": [_cell(tables, role, name) for role in tables],
        "chance": next((decimals(blind.value) for blind in map(chance_of, owners) if blind), ""),
    }


def _cell(tables: Tables, role: str, name: str) -> dict[str, Any]:
    found, scaled = estimate(tables[role].get(name)), comparable(tables, role, name)
    if found is None or scaled is None:
        return {"value": "not measured"}
    return {
        "value": decimals(found.value),
        "interval": str(found).partition(" ")[2],
        "strong": role != "untrained" and apart(scaled, comparable(tables, "untrained", name)) != 0,
        "of_chance": f"{100 * scaled.value:z.0f} % of chance" if scaled != found else None,
    }


def _charts(tables: Tables) -> list[dict[str, str]]:
    charts = []
    for section in (IGNORES, PREDICTS, BREAKS):
        rows = []
        names = [n for n in major(tables.get("trained", {})) if tell(n).section == section and not _DETAIL.search(n)]
        for name in names:
            estimates = {role: e for role in tables if (e := comparable(tables, role, name))}
            sign = ", low is good" if tell(name).better < 0 and section != IGNORES else ""
            if estimates:
                title = f"{tell(name).title}\n{tell(name).part}{sign}".strip()
                blind = level(tables, "trained", name)
                rows.append(DotRow(title, estimates, blind and blind.value))
        if rows:
            charts.append({"title": section, "svg": dot_chart(section, rows)})
    return charts


def _fact(encoder: Mapping[str, Any], key: str) -> str:
    lineage = encoder.get("lineage", {})
    if key == "method":
        return str(lineage.get("method", {}).get("name", ""))
    return ", ".join(f"{path} {text}".strip() for path, text in _flat(encoder.get(key, lineage.get(key, ""))))


def _flat(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names and texts."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        yield path, ", ".join(text for one in value for _, text in _flat(one)) or "none"
    else:
        yield path, "not set" if value is None else str(value)
