"""The page of an in-context evaluation, and its numbers in a few lines."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from viewfold import __version__
from viewfold.jobs.icl_config import MACRO, PAGE
from viewfold.jobs.icl_plots import fold_bars, k_curves
from viewfold.jobs.icl_results import COMPARED
from viewfold.jobs.icl_selectors import NEAREST, RANDOM
from viewfold.jobs.run import environment
from viewfold.pipeline.stage import write_whole

HEADLINE_K = 7


def write_report(results: Mapping[str, Any], gallery: Mapping[str, Any], out: Path) -> Path:
    """Write `out/report.html`: one file that needs nothing beside it."""
    from jinja2 import Environment, PackageLoader

    pages = Environment(loader=PackageLoader("viewfold.jobs", "."), autoescape=True, trim_blocks=True)
    k, selectors = headline_k(results), results["selectors"]
    html = pages.get_template("icl.html.j2").render(
        version=__version__,
        results=results,
        k=k,
        headline=headline(results),
        curves=k_curves(selectors, results["ks"]),
        bars=fold_bars(selectors, list(results["folds"]), k),
        measures=list(selectors[NEAREST][MACRO][str(k)]),
        spaces={name: _of_encoder(told, k) for name, told in selectors.items()},
        pairs=_pairs(results, k),
        gallery=gallery,
        environment=environment(),
    )
    return write_whole(out / PAGE, lambda file: file.write(html.encode()))


def headline_k(results: Mapping[str, Any]) -> int:
    """The k that the page dwells on: 7 as in the literature, or else the largest."""
    return HEADLINE_K if HEADLINE_K in results["ks"] else int(max(results["ks"]))


def headline(results: Mapping[str, Any]) -> str:
    """Precision of each selector in one line, and of the first adaptation less nearest with its interval."""
    k = headline_k(results)
    told = results["selectors"]
    values = ", ".join(f"{name} {told[name][MACRO][str(k)]['precision']['value']:z.3f}" for name in told)
    gains = [
        f"{one['selector']} less {one['against']}: {one[MACRO]['value']:+.3f} "
        f"[{one[MACRO]['low']:+.3f}, {one[MACRO]['high']:+.3f}]"
        for one in results["differences"]
        if (one["against"], one["k"], one["measure"]) == (NEAREST, k, "precision") and ":" in one["selector"]
    ]
    return f"precision@{k}: {values}. {'; '.join(gains)}".rstrip(". ") + "."


def summary(results: Mapping[str, Any]) -> str:
    """The means over folds as a table of text."""
    names = list(results["selectors"])
    rows = [["k", "measure", *names]]
    for k in results["ks"]:
        for measure in (*COMPARED, "coverage"):
            cells = [results["selectors"][name][MACRO][str(k)][measure] for name in names]
            rows.append([str(k), measure, *(f"{c['value']:z.3f} [{c['low']:z.3f}, {c['high']:z.3f}]" for c in cells)])
    for row in results.get("lmm", {}).get("rows", []):
        cell = row[MACRO]["accuracy"]
        rows.append([str(row["k"]), f"{row['selector']} asked, {row['order']}", f"accuracy {cell['value']:z.3f}"])
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=False)).rstrip() for row in rows)


def _of_encoder(told: Mapping[str, Any], k: int) -> dict[str, float | None]:
    """Mean over folds of what is known of the encoder, and of its scores."""
    rows = [space for space in told["space"].values() if space is not None]
    means = {name: _mean([row[name] for row in rows]) for name in (rows[0] if rows else {})}
    return {**means, **told["calibration"][str(k)]}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _pairs(results: Mapping[str, Any], k: int) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for one in results["differences"]:
        if one["k"] == k and one["against"] != RANDOM:
            pair = {"selector": one["selector"], "against": one["against"]}
            found.setdefault((one["selector"], one["against"]), pair)[one["measure"]] = one[MACRO]
    return list(found.values())
