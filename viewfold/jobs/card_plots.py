"""The pictures of a measured invariance card: one small SVG a panel, so that a page can stack them on a phone."""

import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from viewfold.jobs.plots import COLOURS, svg_text


class Mark(NamedTuple):
    """How one of the encoders of a card is drawn: the shape says what the colour says."""

    colour: str
    shape: str
    """matplotlib's name of the marker."""


MARKS = {
    "trained": Mark(COLOURS[3], "o"),
    "against": Mark(COLOURS[2], "s"),
    "untrained": Mark(COLOURS[0], "D"),
}
"""The encoders of a card, in the order in which they are shown."""

LEFT_END = -0.25
"""Where the axis of a dot chart ends: an R2 may fall without bound, and one that does would flatten all others."""


Curve = Mapping[str, Any]
"""A curve as plain data: name, unit, strengths, part, drift, change, and drift_chance and change_chance where known."""

TITLES = {"drift": "Drift of", "change": "Answers changed, read from"}
NOTES = {
    ("drift", True): "Cosine distance to the unchanged image, as a share of the distance to another image.",
    ("drift", False): "Cosine distance to the unchanged image.",
    ("change", False): "Share of images that are given another class than unchanged.",
}
"""What a curve shows, by quantity and by whether it is drawn as a share of chance."""

FILTERS = {
    "near_zero": "near zero",
    "near_duplicate": "near duplicates",
    "low_entropy": "hardly varied channels",
    "entropy_ratio": "variety against random",
}
"""What is drawn of the filters of a layer."""


class Estimate(NamedTuple):
    """A value with the ends of its interval, where it has one."""

    value: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, value: object, low: object, high: object) -> "Estimate | None":
        """None where the value is no finite number; ends that are none are left out."""
        known = (float(x) if isinstance(x, int | float) and math.isfinite(x) else None for x in (value, low, high))
        number, least, most = known
        return None if number is None else cls(number, least, most)

    def over(self, level: float) -> "Estimate":
        """The estimate as a share of `level`."""
        low, high = (None if end is None else end / level for end in (self.low, self.high))
        return Estimate(self.value / level, low, high)

    def __str__(self) -> str:
        """Three decimals, never minus zero."""
        if self.low is None or self.high is None:
            return decimals(self.value)
        return f"{decimals(self.value)} [{decimals(self.low)}, {decimals(self.high)}]"


class Line(NamedTuple):
    """One encoder's curve as it is drawn."""

    name: str
    unit: str
    strengths: Sequence[float]
    estimates: Sequence[Estimate]


@dataclass(frozen=True)
class DotRow:
    """One line of a dot chart."""

    title: str
    estimates: Mapping[str, Estimate]
    """By encoder."""
    chance: float | None


def decimals(value: float) -> str:
    """Three decimals, never minus zero."""
    return f"{value:z.3f}"


def dot_chart(title: str, rows: Sequence[DotRow]) -> str:
    """A dot and its interval for each encoder and row, a tick at each row's chance; below `LEFT_END` an arrow."""
    figure, axes = _panel(4.4, 0.36 * len(rows), left=1.95, bottom=0.3, top=0.05)
    for line, row in enumerate(rows):
        shown = [role for role in MARKS if role in row.estimates]
        for number, role in enumerate(shown):
            _dot(axes, line + 0.22 * (number - (len(shown) - 1) / 2), row.estimates[role], MARKS[role])
        if row.chance is not None and row.chance >= LEFT_END:
            axes.plot([row.chance] * 2, [line - 0.4, line + 0.4], color="black", lw=1.2, ls=":")
    right = max([1.0, *(e.high or e.value for row in rows for e in row.estimates.values())])
    lowest = min([0.0, *(e.value if e.low is None else e.low for row in rows for e in row.estimates.values())])
    axes.set(yticks=range(len(rows)), yticklabels=[_literal(row.title) for row in rows])
    axes.set(xlim=(max(LEFT_END, lowest) - 0.02, right + 0.02), ylim=(len(rows) - 0.5, -0.5))
    axes.grid(axis="x", color="#e4e6ea", lw=0.6)
    axes.tick_params(axis="y", length=0, labelsize=8)
    axes.set_axisbelow(True)
    told = [
        f"{row.title.replace(chr(10), ', ')}: {_told(row.estimates)}"
        + ("" if row.chance is None else f", chance {decimals(row.chance)}")
        for row in rows
    ]
    return _labelled(figure, f"{title}. " + "; ".join(told))


def curve_groups(
    curves: Mapping[str, Sequence[Curve]], quantity: str, spell: Callable[[str], str]
) -> list[dict[str, Any]]:
    """The panels of each part of the features, `{"title", "note", "svgs"}`: `drift` or `change` over strength.

    `curves` are those of each encoder; `spell` puts `curve/NAME` in words. A drift is drawn as a share of the drift to
    another image where that is known of every curve: features in a narrow cone drift little, whatever is done.
    """
    groups = []
    for part in ("invariant", "equivariant", "all"):
        own = {r: [c for c in curves.get(r, []) if c["part"] == part and c.get(quantity)] for r in MARKS}
        found = [curve for several in own.values() for curve in several]
        if not found:
            continue
        scaled = quantity == "drift" and all(curve.get("drift_chance") for curve in found)
        lines = {r: [_line(c, quantity, c["drift_chance"] if scaled else 1.0) for c in own[r]] for r in MARKS}
        chance = 1.0 if scaled else found[0].get(f"{quantity}_chance")
        reached = [e.high or e.value for several in lines.values() for line in several for e in line.estimates]
        top = max(*reached, chance or 0.0, 0.01)
        panels = []
        for name in dict.fromkeys(curve["name"] for curve in found):
            same = {role: line for role, several in lines.items() for line in several if line.name == name}
            panels.append(_curve_panel(spell(f"curve/{name}"), quantity, same, chance=chance, top=top))
        title = f"{TITLES[quantity]} {'all features' if part == 'all' else f'the {part} part'}"
        note = NOTES[quantity, scaled] + ("" if chance is None else " Dotted: chance.")
        groups.append({"title": title, "note": note, "svgs": panels})
    return groups


def filter_groups(filters: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The panels of the filters of each layer, first layer on top; none where no encoder has any."""
    own = {role: filters[role] for role in MARKS if filters.get(role)}
    if not own:
        return []
    layers = list(dict.fromkeys(row["layer"] for rows in own.values() for row in rows))
    return [
        {
            "title": "Filters, layer by layer",
            "note": "Shares of the 3 x 3 filters that are near zero or nearly the same as another, of channels whose"
            " filters are hardly varied, and how varied all are against random ones: at first about 0, 0, 0 and 1.",
            "svgs": [
                _filter_panel(title, field, layers, own)
                for field, title in FILTERS.items()
                if any(row.get(field) is not None for rows in own.values() for row in rows)
            ],
        }
    ]


def _line(curve: Curve, quantity: str, level: float) -> Line:
    estimates = [Estimate(*point).over(level) for point in curve[quantity]]
    return Line(curve["name"], str(curve.get("unit", "")), curve["strengths"], estimates)


def _curve_panel(title: str, quantity: str, lines: Mapping[str, Line], *, chance: float | None, top: float) -> str:
    figure, axes = _panel(3.1, 1.6, left=0.42, bottom=0.42, top=0.25)
    for role, line in lines.items():
        colour, shape = MARKS[role]
        axes.plot(line.strengths, [e.value for e in line.estimates], color=colour, marker=shape, ms=3.5, lw=1.3)
        low = [e.value if e.low is None else e.low for e in line.estimates]
        high = [e.value if e.high is None else e.high for e in line.estimates]
        axes.fill_between(line.strengths, low, high, color=colour, alpha=0.22, lw=0)
    if chance is not None:
        axes.axhline(chance, color="black", lw=1.0, ls=":")
    first = next(iter(lines.values()))
    if first.strengths[0] > first.strengths[-1]:  # such as a JPEG's quality: to the right is always stronger
        axes.invert_xaxis()
    axes.set_ylim(0, top * 1.04)
    axes.set_title(_literal(title), fontsize=10, y=1.0)
    axes.set_xlabel(_literal(first.unit))
    ends = {role: line.estimates[-1] for role, line in lines.items()}
    level = "" if chance is None else f"; chance {decimals(chance)}"
    return _labelled(figure, f"{title}: {quantity} at {first.strengths[-1]:g} {first.unit}: {_told(ends)}{level}")


def _filter_panel(
    title: str, field: str, layers: Sequence[str], filters: Mapping[str, Sequence[Mapping[str, Any]]]
) -> str:
    figure, axes = _panel(3.1, 0.1 * (1 + len(filters)) * len(layers), left=1.15, bottom=0.25, top=0.25)
    height = 0.8 / len(filters)
    ends = {}
    for number, (role, rows) in enumerate(filters.items()):
        bars = {row["layer"]: row[field] for row in rows if row.get(field) is not None}
        at = [layers.index(layer) + height * (number - (len(filters) - 1) / 2) for layer in bars]
        axes.barh(at, list(bars.values()), height=height, color=MARKS[role].colour)
        if bars:
            ends[role] = f"{decimals(min(bars.values()))} to {decimals(max(bars.values()))}"
    axes.set(yticks=range(len(layers)), yticklabels=[_literal(name.removeprefix("backbone.")) for name in layers])
    axes.set(xlim=(0, 1.05), ylim=(len(layers) - 0.5, -0.5))
    axes.set_title(title, fontsize=10, y=1.0)
    axes.tick_params(axis="y", length=0, labelsize=7.5)
    return _labelled(figure, f"{title}, {len(layers)} layers, least to most: {_told(ends)}")


def _panel(width: float, height: float, *, left: float, bottom: float, top: float) -> tuple[Figure, Axes]:
    """Axes `height` inches high in a figure `width` inches wide; margins by hand, since finding them draws twice."""
    whole = height + bottom + top
    figure = Figure(figsize=(width, whole))
    axes = figure.add_axes((left / width, bottom / whole, (width - left - 0.1) / width, height / whole))
    return figure, axes


def _dot(axes: Axes, line: float, estimate: Estimate, mark: Mark) -> None:
    value, low, high = estimate
    if value < LEFT_END:
        axes.plot([LEFT_END], [line], color=mark.colour, marker="<", ms=5, ls="", clip_on=False)
        return
    if low is not None and high is not None:
        axes.plot([max(low, LEFT_END), high], [line, line], color=mark.colour, lw=1.6, solid_capstyle="butt")
    axes.plot([value], [line], color=mark.colour, marker=mark.shape, ms=4.5, ls="")


def _told(values: Mapping[str, object]) -> str:
    return ", ".join(f"{role} {value}" for role, value in values.items())


def _literal(text: str) -> str:
    """Names come from files: a dollar sign in one is a dollar sign, not mathematics."""
    return text.replace("$", r"\$")


def _labelled(figure: Figure, label: str) -> str:
    """The figure with `label` for those who cannot see it, and ids that occur once in the page that holds it."""
    text = svg_text(figure)
    own = f"v{zlib.crc32((label + text).encode()):08x}-"
    text = re.sub(r'( id="|url\(#|xlink:href="#)', rf"\g<1>{own}", text)
    quoted = label.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    return text.replace("<svg", f'<svg role="img" aria-label="{quoted}"', 1)
