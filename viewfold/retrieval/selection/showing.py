"""Demonstrations as a table of HTML, for a notebook. Whatever metadata says is text there, never markup."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from viewfold.errors import printable

if TYPE_CHECKING:
    from viewfold.retrieval.selection.demos import DemoItem, DemoSet

HEAD = ("rank", "cosine", "label", "domain", "key", "reason")


def demo_table(demos: "DemoSet") -> str:
    """The demonstrations, first choice first, what was left out, and what they came from.

    No script, no style sheet, no picture: the set alone does not hold the images.
    """
    probable = any(item.p_match is not None for item in demos.items)
    head = _row("th", (*HEAD, "p_match") if probable else HEAD)
    chosen = sorted(demos.items, key=lambda item: item.rank)
    body = "".join(_row("td", _cells(item, probable=probable)) for item in chosen)
    caption = f"{len(demos.items)} of {demos.k} demonstrations for {demos.query_id}"
    notes = "".join(f"<p>{_text(note)}</p>" for note in _notes(demos))
    return f"<table><caption>{_text(caption)}</caption><thead>{head}</thead><tbody>{body}</tbody></table>{notes}"


def _cells(item: "DemoItem", *, probable: bool) -> list[str]:
    cells = [str(item.rank), f"{item.score:.4f}", item.label, item.domain or "-", item.key, item.reason]
    if probable:
        cells.append("-" if item.p_match is None else f"{item.p_match:.2f}")
    return cells


def _notes(demos: "DemoSet") -> list[str]:
    excluded = ", ".join(f"{count} by {reason}" for reason, count in demos.excluded.items() if count) or "none"
    fallback = [] if demos.fallback is None else [f"fallback: {demos.fallback}"]
    lineage = f"strategy {demos.strategy}, seed {demos.seed}, encoder {demos.encoder_id}, index {demos.bundle_id}"
    return [f"left out: {excluded}", *fallback, *demos.warnings, lineage]


def _row(cell: str, texts: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{cell}>{_text(text)}</{cell}>' for text in texts)}</tr>"


def _text(text: str) -> str:
    """Control and format characters too: a right-to-left mark in a label would turn the cells after it around."""
    return escape(printable(text))
