"""The pictures of a report, as SVG text that an HTML page holds inline."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

COLOURS = ("#8a8f98", "#c9a227", "#4f7cac", "#2e8b57")

# Text stays text (small, searchable), and ids do not change from one drawing to the next.
mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "viewfold", "font.size": 9})
mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})


def training_curves(metrics: Path) -> str:
    """Loss terms on the left, effective rank of each part of the features on the right, over steps."""
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    steps = [row["step"] for row in rows]
    known = {"step", "epoch", "samples", "lr", "samples_s", "data_wait", "warning"}
    terms = [name for name in rows[0] if name not in known and "/" not in name]
    ranks = [name for name in rows[0] if name.startswith("effective_rank/")]
    figure = Figure(figsize=(8.2, 2.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in terms:
        left.plot(steps, [row[name] for row in rows], label=name, lw=1.8 if name == "loss" else 1.0)
    left.set(xlabel="step", title="loss terms (weighted)", yscale="log")
    left.legend(fontsize=7, frameon=False)
    for name in ranks:
        right.plot(steps, [row[name] for row in rows], label=name.removeprefix("effective_rank/"))
    right.set(xlabel="step", title="effective rank of a batch", ylim=(0, None))
    right.legend(fontsize=7, frameon=False)
    return svg_text(figure)


def selector_bars(selectors: Mapping[str, Mapping[str, Any]], k: int) -> str:
    """Precision@k of each selector with its interval, and the chance level."""
    names = list(selectors)
    values = [selectors[name]["precision"] for name in names]
    figure = Figure(figsize=(8.2, 2.2), layout="constrained")
    axes = figure.subplots()
    low = [v["value"] - v["low"] for v in values]
    high = [v["high"] - v["value"] for v in values]
    axes.barh(names, [v["value"] for v in values], xerr=[low, high], color=COLOURS[: len(names)], height=0.6)
    axes.axvline(selectors[names[0]]["chance_precision"], color="black", lw=0.8, ls=":")
    axes.set(xlabel=f"precision@{k} (dotted: chance)", xlim=(0, None))
    axes.invert_yaxis()
    return svg_text(figure)


def index_map(xs: Sequence[float], ys: Sequence[float], labels: Sequence[str]) -> str:
    """The bundle's images at their place on its map, coloured by label."""
    names = sorted(set(labels))
    palette = mpl.colormaps["tab20"]
    figure = Figure(figsize=(8.2, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, name in enumerate(names):
        rows = [i for i, label in enumerate(labels) if label == name]
        colour, marker = palette(number % 20), "o" if number < 20 else "^"
        axes.scatter([xs[i] for i in rows], [ys[i] for i in rows], s=9, color=colour, marker=marker, label=name)
    axes.set(xticks=[], yticks=[])
    axes.legend(fontsize=6.5, frameon=False, ncols=2, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=1.6)
    return svg_text(figure)


def svg_text(figure: Figure) -> str:
    """The figure as one `<svg>` element, without metadata: the same drawing is the same text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    return text[text.index("<svg") :]
