"""The whole story on the shipped images: two recipes, their numbers side by side with chance, one page to look at."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from viewfold.errors import InvalidInput
from viewfold.jobs.recipes import emoji_demo, objects_demo
from viewfold.jobs.registry import Registry
from viewfold.jobs.report import TITLES, measures, write_report
from viewfold.jobs.run import results, run_recipe
from viewfold.jobs.run_config import RunConfig
from viewfold.jobs.tracking import track
from viewfold.pipeline.stage import StageRecord, write_whole

PARTS: Mapping[str, Callable[[], RunConfig]] = {"objects": objects_demo, "emoji": emoji_demo}


def run_demo(out: Path, recipes: Mapping[str, Callable[[], RunConfig]] = PARTS) -> None:
    """Make or find every stage, print the tables, write `results.json` and `report.html` into `out`.

    Raises:
        InvalidInput: `out` holds other things.
    """
    if out.is_dir() and any(out.iterdir()) and not any((out / part).is_dir() for part in recipes):
        raise InvalidInput(f"{out}: holds other things, and no demo; name another folder with --out")
    began = time.perf_counter()
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 100  # a log has no width of its own, and 80 breaks the tables
    configs: dict[str, RunConfig] = {}
    records: dict[str, dict[str, StageRecord]] = {}
    for part, recipe in recipes.items():
        configs[part] = recipe()
        records[part] = run_recipe(configs[part], out / part, home=out.parent)
    numbers: dict[str, Any] = {part: results(stages) for part, stages in records.items()}
    numbers["summary"] = {"line": headline(numbers)}
    write_whole(out / "results.json", lambda file: file.write(json.dumps(numbers, indent=2).encode()))
    report = write_report(out, configs, numbers)
    if not all(record.reused for stages in records.values() for record in stages.values()):
        _keep_report(out, [report, out / "results.json"])
    console.print(stage_table(numbers))
    console.print(evaluation_table(numbers["objects"]["evaluate"]))
    console.print(comparison_table(numbers["emoji"]["compare"]))
    console.print(f"\n{numbers['summary']['line']}\n", soft_wrap=True)
    console.print(f"report: {report.resolve()}   numbers: {out / 'results.json'}", soft_wrap=True)
    console.print(f"{time.perf_counter() - began:.0f} s in all. Next:", soft_wrap=True)
    for command in next_commands(out):
        console.print(f"  {command}", soft_wrap=True, markup=False)


def _keep_report(out: Path, files: list[Path]) -> None:
    """Send the report to the tracking server, as a run of its own."""
    with track(
        Registry(out.parent), out, f"{out.name}/report", params={}, tags={"run": out.name}, files={"report": files}
    ):
        pass  # it has no rows


def next_commands(out: Path) -> tuple[str, ...]:
    """Three commands to try next."""
    return (
        f"viewfold ask YOUR_IMAGE.png -k 7 --from {out / 'emoji'} --sheet demonstrations.png",
        "viewfold data import YOUR_FOLDER --out shards/mine     # one folder per class",
        "viewfold run folders data.shards='[shards/mine]' --out runs/mine     # then ask --from runs/mine",
    )


def headline(numbers: dict[str, Any]) -> str:
    """What was learned against chance, in one line."""
    trained, untrained = (measures(numbers["objects"]["evaluate"], which) for which in ("trained", "untrained"))
    selectors = numbers["emoji"]["compare"]["selectors"]
    invariant, nearest, random = (
        selectors[name]["precision"]["value"] for name in ("invariant", "nearest-pretrained", "random")
    )
    knn, r2 = "invariant/knn5/top1", "equivariant/rotation/r2"
    at_chance = "" if (trained[r2]["low"] or 0) > trained[r2]["chance"] else ", so not learned in this short run"
    return (
        f"Unseen objects: kNN {trained[knn]['value']:z.2f} (untrained {untrained[knn]['value']:z.2f}, "
        f"chance {trained[knn]['chance']:z.2f}), rotation R2 {trained[r2]['value']:z.2f} (untrained "
        f"{untrained[r2]['value']:z.2f}, chance {trained[r2]['chance']:z.2f}{at_chance}). Unseen emoji style: "
        f"precision@{numbers['emoji']['compare']['k']} {invariant:z.2f} by invariant selection, "
        f"{nearest:z.2f} by nearest, {random:z.2f} at random."
    )


def stage_table(numbers: dict[str, Any]) -> Table:
    """Seconds of each stage, and whether it was made now."""
    table = Table(title="Stages", title_justify="left")
    for column in ("run", "stage", "seconds", ""):
        table.add_column(column, justify="right" if column == "seconds" else "left")
    for part, stages in numbers.items():
        for name, stage in stages.items() if part != "summary" else ():
            table.add_row(part, name, f"{stage['seconds']:.1f}", "found" if stage["reused"] else "made")
    return table


def evaluation_table(card: dict[str, Any]) -> Table:
    """What the objects' encoder knows about objects that it never saw."""
    table = Table(title="Unseen 3-D objects (95 % intervals over objects)", title_justify="left")
    for column in ("measure", "SIE encoder", "untrained network", "chance"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    trained, untrained = measures(card, "trained"), measures(card, "untrained")
    for name in TITLES:
        chance = f"{trained[name]['chance']:z.3f}"
        table.add_row(TITLES[name], with_interval(trained[name]), with_interval(untrained[name]), chance)
    return table


def comparison_table(comparison: dict[str, Any]) -> Table:
    """How good the demonstrations of each selector are for the style that nothing has seen."""
    k = comparison["k"]
    title = f"Demonstrations for {comparison['queries']} emoji of an unseen style, their own code points excluded"
    table = Table(title=title, title_justify="left")
    for column in ("selector", f"precision@{k}", f"{k}-NN vote", "coverage"):
        table.add_column(column, justify="left" if column == "selector" else "right")
    for selector, row in comparison["selectors"].items():
        cells = [with_interval(row[name]) for name in ("precision", "vote_accuracy", "coverage")]
        table.add_row(selector, *cells)
    expected = next(iter(comparison["selectors"].values()))["chance_precision"]
    table.caption = f"chance precision@{k}, computed from the labels: {expected:z.3f}"
    return table


def with_interval(measure: dict[str, Any]) -> str:
    """`value [low, high]`."""
    if measure["low"] is None:
        return f"{measure['value']:z.3f}"
    return f"{measure['value']:z.3f} [{measure['low']:z.3f}, {measure['high']:z.3f}]"
