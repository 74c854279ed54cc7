"""The chart of docs/benchmarks.md: every ratio with its interval, beside its target."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.measure import Label, Row

MET, MISSED, WITHOUT = "#2e8b57", "#b03a48", "#8a8f98"
_SPREAD = 0.56
"""Of the height of a line, what its measurements take when there are many."""


@dataclass(frozen=True)
class Line:
    """All measurements of one ratio."""

    name: str
    label: Label
    rows: list[Row]


def draw(lines: Sequence[Line], file: Path) -> None:
    """Ratios of which more is better above those of which less is, each on a logarithmic axis."""
    parts = [[line for line in lines if line.label.less is less] for less in (False, True)]
    parts = [part for part in parts if part]
    heights = [len(part) + 1.5 for part in parts]
    figure = Figure(figsize=(8.4, 0.34 * sum(heights) + 0.6), layout="constrained")
    panels = figure.subplots(len(parts), 1, height_ratios=heights, sharex=True, squeeze=False)
    for axes, part in zip(panels[:, 0], parts, strict=True):
        _panel(axes, part)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110, metadata={"Software": None})


def _panel(axes: Axes, lines: Sequence[Line]) -> None:
    for place, line in enumerate(lines):
        step = _SPREAD / max(4, len(line.rows))
        for number, row in enumerate(line.rows):
            y = place + (number - (len(line.rows) - 1) / 2) * step
            colour = WITHOUT if "target" not in row else MET if row["met"] else MISSED
            axes.plot(
                [row[end] if end in row else row["value"] for end in ("low", "high")], [y, y], color=colour, lw=1.2
            )
            axes.plot(row["value"], y, "o", color=colour, ms=3.2)
        for target in {row["target"] for row in line.rows if "target" in row}:
            axes.plot([target, target], [place - 0.4, place + 0.4], color="black", lw=1.6)
    axes.axvline(1, color=WITHOUT, lw=0.8, ls=":")
    axes.set_yticks(range(len(lines)), [line.name for line in lines], fontsize=8)
    less = lines[0].label.less
    axes.set(xscale="log", ylim=(len(lines) - 0.4, -0.6))
    axes.set_title("less is better" if less else "more is better", fontsize=9, loc="left")
    axes.xaxis.set_major_formatter(lambda value, position: f"{value:g}")
    axes.tick_params(axis="x", labelsize=8, labelbottom=True)
    axes.spines[["top", "right"]].set_visible(False)
    if not less:
        kinds = (("target met", MET), ("missed", MISSED), ("no target", WITHOUT))
        handles = [axes.plot([], [], "o-", color=colour, ms=3.2, label=name)[0] for name, colour in kinds]
        handles += axes.plot([], [], color="black", lw=1.6, label="target")
        axes.legend(handles=handles, frameon=False, fontsize=8, loc="upper right")
