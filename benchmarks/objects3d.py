"""What SIE learns of objects it never saw, beside VICReg, a supervised network and an untrained one.

    VIEWFOLD_DATA=FOLDER python -m benchmarks.objects3d --out

Trains each recipe with each seed (one took 25 minutes on one busy core; what is done is found again) and collects the
cards. Every number is of the pack's validation objects, on which nothing was tuned.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from viewfold.jobs.recipes import RECIPES
from viewfold.jobs.run import run_recipe
from viewfold.jobs.run_config import RunConfig

COMPARED = (
    "sie-objects3d",
    "vicreg-objects3d",
    "supervised-objects3d",
    "sie-colour-objects3d",
    "vicreg-colour-objects3d",
)
SEEDS = (0, 1, 2)
MEASURES = (
    "invariant/knn5/top1",
    "invariant/linear/top1",
    "invariant/rotation/r2",
    "equivariant/rotation/r2",
    "equivariant/colour/r2",
    "invariant/colour/r2",
    "equivariant/retrieval/mrr",
    "equivariant/fitted_retrieval/mrr",
    "invariant/fitted_retrieval/mrr",
    "invariant/effective_rank",
)


def seeded(config: RunConfig, seed: int, *, workers: int) -> RunConfig:
    """The recipe with other weights, views and order."""
    assert config.pretrain is not None
    stream = replace(config.pretrain.stream, seed=seed)
    return replace(config, pretrain=replace(config.pretrain, seed=seed, stream=stream, workers=workers))


def measured(stages: Mapping[str, Any]) -> dict[str, Any]:
    """The measures of a finished run, of the trained and of the untrained network, with its seconds and steps."""
    card = stages["evaluate"].result["measures"]
    kept = {
        which: {one["name"]: {k: one[k] for k in ("value", "low", "high", "chance", "n")} for one in card[which]}
        for which in card
    }
    rows = {which: {name: table[name] for name in MEASURES if name in table} for which, table in kept.items()}
    return {"train_s": round(stages["pretrain"].seconds, 1), **rows}


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: each measure's values over the seeds, and the ends of all their intervals together."""
    lines = ["| recipe | measure | seeds | lowest and highest end of the intervals | chance |", "|---|---|---|---|---|"]
    for recipe, runs in results.items():
        for which in ("trained", "untrained"):
            for name in MEASURES:
                found = [run[which][name] for run in runs.values() if name in run[which]]
                if found:
                    values = ", ".join(f"{one['value']:z.3f}" for one in found)
                    lines.append(
                        f"| {recipe} {which} | {name} | {values} | {_ends(found)} | {found[0]['chance']:z.3f} |"
                    )
    return "\n".join(lines)


def _ends(found: Sequence[Mapping[str, Any]]) -> str:
    ends = [(one["low"], one["high"]) for one in found if one["low"] is not None]
    return f"{min(low for low, _ in ends):z.3f} to {max(high for _, high in ends):z.3f}" if ends else "-"


def main() -> None:
    """Run what is missing, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipes", nargs="+", default=list(COMPARED), choices=sorted(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--workers", type=int, default=2, help="for each training; the result does not depend on it")
    parser.add_argument("--runs", type=Path, default=Path("runs/objects3d"), help="folder of the runs")
    parser.add_argument("--out", nargs="?", const=Path(__file__).parent / "results" / "objects3d.json", type=Path)
    options = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    for recipe in options.recipes:
        for seed in options.seeds:
            config = seeded(RECIPES[recipe](), seed, workers=options.workers)
            stages = run_recipe(config, options.runs / f"{recipe}-{seed}", home=options.runs)
            results.setdefault(recipe, {})[str(seed)] = measured(stages)
    print(table(results))
    body = {"machine": describe_machine("deepspeed", "ray", "timm"), "results": results}
    if options.out is not None:
        options.out.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(body))


if __name__ == "__main__":
    main()
