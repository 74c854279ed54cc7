"""The pictures of an in-context evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from viewfold.jobs.icl_config import MACRO
from viewfold.jobs.plots import svg_text

NAMES = {
    "precision": "precision@k",
    "vote": "vote accuracy",
    "coverage": "coverage",
    "balanced_vote": "balanced vote accuracy",
}
"""Measures that are drawn or stand in the table, and what they are called."""
_MARKERS = "osD^vPX*"


def k_curves(selectors: Mapping[str, Any], ks: Sequence[int], measures: Sequence[str] = ("precision", "vote")) -> str:
    """Means over folds against k, a line a selector with its 95 % interval, one panel a measure."""
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    panels = figure.subplots(1, len(measures), squeeze=False)[0]
    for axes, measure in zip(panels, measures, strict=True):
        for number, (name, told) in enumerate(selectors.items()):
            points = [told[MACRO][str(k)][measure] for k in ks]
            low, high = ([point[end] for point in points] for end in ("low", "high"))
            colour, marker = _style(number)
            axes.plot(ks, [point["value"] for point in points], color=colour, marker=marker, ms=3.5, lw=1.4, label=name)
            axes.fill_between(ks, low, high, color=colour, alpha=0.15, lw=0)
        axes.set(xlabel="demonstrations k", title=NAMES[measure], xticks=ks, ylim=(0, 1.02))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    return svg_text(figure)


def fold_bars(selectors: Mapping[str, Any], folds: Sequence[str], k: int, measure: str = "precision") -> str:
    """One group of bars a fold, a bar a selector, with 95 % intervals."""
    figure = Figure(figsize=(8.4, 0.5 + len(folds) * (0.25 + 0.13 * len(selectors))), layout="constrained")
    axes = figure.subplots()
    height = 0.84 / len(selectors)
    for number, (name, told) in enumerate(selectors.items()):
        points = [told[fold][str(k)][measure] for fold in folds]
        _bars(axes, [place + number * height - 0.42 for place in range(len(folds))], points, height, number, name)
    axes.set(yticks=range(len(folds)), yticklabels=list(folds), xlabel=f"{NAMES[measure]}, k={k}", xlim=(0, 1.02))
    axes.invert_yaxis()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    return svg_text(figure)


def _bars(
    axes: Axes, at: Sequence[float], points: Sequence[Mapping[str, float]], height: float, number: int, name: str
) -> None:
    values = [point["value"] for point in points]
    ends = [
        [max(0.0, point["value"] - point["low"]) for point in points],
        [max(0.0, point["high"] - point["value"]) for point in points],
    ]
    axes.barh(
        at, values, height=height, align="edge", xerr=ends, color=_style(number)[0], label=name, error_kw={"lw": 0.9}
    )


def _style(number: int) -> tuple[Any, str]:
    return mpl.colormaps["tab10"](number % 10), _MARKERS[number % len(_MARKERS)]
