"""docs/benchmarks.md and its chart, from the records in `benchmarks/results/` alone.

python -m benchmarks.render    a test holds the page to the records: run it whenever one of them changes
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

from benchmarks import LONG, SUITES
from benchmarks.chart import Line, draw
from benchmarks.measure import RESULTS, Label, Row

DOCS = Path(__file__).parents[1] / "docs"
PAGE, CHART = DOCS / "benchmarks.md", DOCS / "pictures" / "benchmarks.png"

BARELY = "met by the median alone"
INTRODUCTION = """\
# Benchmarks

<!-- not run: takes minutes -->
```sh
make bench                # everything, some hours; builds .venv-peers with the compared libraries first
make bench SUITE=losses   # one suite
```

This page is rendered from the records in `benchmarks/results/` by `python -m benchmarks.render`; nothing on it is
written by hand but what the suites say of themselves.

Two sides that are compared do the same work in turns, after a warm-up of each, and who begins changes with every pair.
A ratio is the peer's over ours, in seconds or bytes, so more is better; where less is better, it is ours over the
peer's. It is the median over the pairs, and brackets are its 95 % bootstrap interval. A target is what was aimed at:
*met* means that the median reaches it, *met by the median alone* that the interval does not. Each suite names its
machine, commit and date; values of different records should not be compared with each other.

The peers are the libraries' released versions. Those that cannot live beside ours are pinned in `benchmarks/peers.txt`
and run in a Python of their own (`.venv-peers`, or the one that `PEERS_PYTHON` names); without it their rows are left
out, and the record says so. For SIE and MCR2 the peers are plain implementations in `benchmarks/losses.py`.

Two libraries are not compared: solo-learn 1.0.2 asks for torch 1.9.1, which Python 3.11 does not have;
stable-pretraining 0.1.8 asks for pyarrow 20 where clip-retrieval asks for less than 16, and what it does to images is
Kornia's chain, which is compared as it is.
"""


@dataclass(frozen=True)
class Named:
    """All rows of one name in a suite."""

    suite: str
    name: str
    label: Label
    rows: list[Row]

    @property
    def missed(self) -> list[Row]:
        """Those that did not reach their target."""
        return [row for row in self.rows if "target" in row and not row["met"]]

    @property
    def worst(self) -> Row:
        """The least favourable one."""
        return (max if self.label.less else min)(self.rows, key=lambda row: row["value"])


Record = Mapping[str, Any]


def records(results: Path = RESULTS) -> dict[str, Record]:
    """Of every suite that has one, in the order of the suites."""
    found = {name: results / f"{name}.json" for name in (*SUITES, *LONG)}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in found.items() if file.exists()}


def named(suite: str, record: Record) -> list[Named]:
    """The rows by their names; none of a record that has a page of its own."""
    if "page" in record:
        return []
    names = dict.fromkeys(row["name"] for row in record["rows"])
    labels = {name: Label(what=f"`{name}`") for name in names}
    labels |= {name: Label(**fields) for name, fields in record.get("labels", {}).items()}
    return [Named(suite, name, labels[name], [row for row in record["rows"] if row["name"] == name]) for name in names]


def page(found: Mapping[str, Record]) -> str:
    """The whole page."""
    everything = [one for suite, record in found.items() for one in named(suite, record)]
    parts = [INTRODUCTION, *_summary(everything), *_unmeasured(found)]
    for suite, record in found.items():
        parts += _section(suite, record)
    return "\n".join(parts)


def write(results: Path = RESULTS) -> Path:
    """Page and chart; the page's path."""
    found = records(results)
    PAGE.write_text(page(found), encoding="utf-8")
    everything = [one for suite, record in found.items() for one in named(suite, record)]
    draw([Line(f"{one.suite}: {one.name}", one.label, one.rows) for one in everything if one.label.unit == "x"], CHART)
    return PAGE


def _summary(everything: Sequence[Named]) -> Iterator[str]:
    """Misses beside wins: a line for each name that has a target, the missed ones first."""
    aimed = [one for one in everything if any("target" in row for row in one.rows)]
    rows = sum("target" in row for one in aimed for row in one.rows)
    missed = sum(len(one.missed) for one in aimed)
    yield f"## Missed and met\n\n{rows} measurements have a target: {rows - missed} met theirs, **{missed} missed**.\n"
    yield "| | what | beside | worst case | target | |\n|---|---|---|--:|--:|---|"
    for one in sorted(aimed, key=lambda one: not one.missed):
        label, worst = one.label, one.worst
        name = f"{one.suite}: `{one.name}`"
        cells = [name, label.what, label.beside, _value(worst, label), _target(worst, label), _met(one)]
        yield f"| {' | '.join(cells)} |"
    yield ""
    why = [_item(f"`{one.name}`: {one.label.why}.") for one in aimed if one.missed and one.label.why]
    yield from (["Why, as far as it is known:\n", *why, ""] if why else [])
    yield f"![every ratio and its target](pictures/{CHART.name})\n"
    yield "Each dot is a measurement with its interval; a bar is the target. Both scales are logarithmic.\n"


def _unmeasured(found: Mapping[str, Record]) -> Iterator[str]:
    missing = [f"`{name}`" for name in (*SUITES, *LONG) if name not in found]
    if missing:
        yield f"Without a record so far, so not on this page: {', '.join(missing)}.\n"


def _section(suite: str, record: Record) -> Iterator[str]:
    about = f"{record['about']}\n\n" if "about" in record else ""
    yield f"## {suite}\n\n{about}{_wrapped(_machine(record))}\n"
    if "page" in record:
        yield f"{len(record['rows'])} figures that are compared with nothing: [{record['page']}]({record['page']}).\n"
        return
    yield "| what | beside | value | target | |\n|---|---|--:|--:|---|"
    for one in named(suite, record):
        for row in one.rows:
            case = one.label.case.format(**row)
            what = f"{one.label.what}; {case}" if case else one.label.what
            cells = [what, one.label.beside, _value(row, one.label), _target(row, one.label), _verdict(row, one.label)]
            yield f"| {' | '.join(cells)} |"
    yield ""
    notes = [_item(note) for note in record.get("notes", ())]
    yield from ([*notes, ""] if notes else [])


def _machine(record: Record) -> str:
    machine = record["machine"]
    versions = {**machine["versions"], **{f"{name} (peer)": v for name, v in record.get("peers", {}).items()}}
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    repeats = sorted({row["repeats"] for row in record["rows"] if "repeats" in row})
    pairs = f"; {' to '.join(str(n) for n in dict.fromkeys((repeats[0], repeats[-1])))} repeats" if repeats else ""
    minutes = f", {record['minutes']:.0f} minutes" if record.get("minutes", 0) >= 1.5 else ""
    where = f"{machine['cpu']}, {machine['cores']} cores{gpu}, Python {machine['python']}"
    return f"{machine['date']}, commit {machine['commit']}; {where}; {packages}{pairs}{minutes}."


def _value(row: Row, label: Label) -> str:
    unit = "" if label.unit in ("x", "R2", "share") else f" {label.unit}"
    interval = f" [{_number(row['low'])}, {_number(row['high'])}]" if "low" in row else ""
    return f"{_number(row['value'])}{interval}{unit}"


def _target(row: Row, label: Label) -> str:
    if "target" not in row:
        return "less is better" if label.less else ""
    return f"{'at most' if label.less else 'at least'} {row['target']:g}"


def _verdict(row: Row, label: Label) -> str:
    if "target" not in row:
        return ""
    if not row["met"]:
        return "**missed**"
    end = row.get("high" if label.less else "low", row["value"])
    reached = end <= row["target"] if label.less else end >= row["target"]
    return "met" if reached else BARELY


def _met(one: Named) -> str:
    """How many of a name's measurements reached their targets."""
    if one.missed:
        return f"**missed** in {len(one.missed)} of {len(one.rows)}"
    barely = sum(_verdict(row, one.label) == BARELY for row in one.rows)
    return f"met in {len(one.rows)} of {len(one.rows)}" + (f", in {barely} by the median alone" if barely else "")


def _item(text: str) -> str:
    return _wrapped(f"- {text}", indent="  ")


def _wrapped(text: str, indent: str = "") -> str:
    return fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _number(value: float) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f}"


if __name__ == "__main__":
    print(write())
