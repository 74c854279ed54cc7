"""What SIE learns of objects it never saw, beside VICReg, a supervised network and an untrained one.

    VIEWFOLD_DATA=FOLDER python -m benchmarks.objects3d --out

Trains each recipe with each seed (one took 25 minutes on one busy core; what is done is found again) and collects the
cards. Every number is of the pack's validation objects, on which nothing was tuned. Whether SIE follows a
transformation better than VICReg is asked of the same objects: their difference has an interval of its own, for objects
differ more from each other than the methods do.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machine import describe_machine
from benchmarks.measure import Label, Row
from viewfold.errors import InvalidInput
from viewfold.jobs.data import source
from viewfold.jobs.freeze import Frozen, freeze_pair
from viewfold.jobs.recipes import RECIPES
from viewfold.jobs.run import run_recipe
from viewfold.jobs.run_config import RunConfig
from viewfold.ssl.encoder import load_encoder
from viewfold.ssl.evaluate import Pairs, relation_pairs
from viewfold.ssl.evaluate.interval import Interval, bootstrap
from viewfold.ssl.evaluate.r2 import variance_weighted_r2
from viewfold.ssl.evaluate.relation import fit_pair_probe, predict
from viewfold.ssl.methods.relations import RELATIONS, Recorded

COMPARED = (
    "sie-objects3d",
    "vicreg-objects3d",
    "supervised-objects3d",
    "sie-colour-objects3d",
    "vicreg-colour-objects3d",
)
SEEDS = (0, 1, 2)
LABELS = {
    "rotation_r2_more": Label(
        what="R2 of rotation by SIE's equivariant part", beside="less that by VICReg's features", unit="R2"
    ),
    "colour_r2_more": Label(
        what="R2 of the hues by SIE's equivariant part", beside="less that by VICReg's features", unit="R2"
    ),
}
NOTES = (
    "validation objects that no training saw, mean over seeds, interval of the difference over the same objects",
    "hours of trainings: `make bench` leaves it out unless it is named; docs/results.md reads all of it",
)
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


DIFFERENCES = (
    ("rotation", "sie-objects3d", "vicreg-objects3d"),
    ("colour", "sie-colour-objects3d", "vicreg-colour-objects3d"),
)
"""What is asked of the equivariant part of the first recipe's encoders and of all features of the second's."""


class Predicted(NamedTuple):
    """What a probe says of the validation pairs."""

    target: NDArray[np.float32]
    predicted: NDArray[np.float32]
    group: NDArray[np.int64]


def predicted(run: Path, config: RunConfig, *, relation: str, part: str) -> Predicted:
    """The relation of both views of the validation pairs, by the probe that the card's R2 is of."""
    assert config.evaluate is not None
    assert config.validation is not None
    encoder = load_encoder(run / "pretrain" / "encoder")
    known, asked = freeze_pair(
        encoder, source(run / "data", config.data), source(run / "validation", config.validation)
    )
    train, val = (_pairs(split, part, relation, config.evaluate.pairs_per_object) for split in (known, asked))
    probe = fit_pair_probe(train, config.evaluate.probe, seed=config.evaluate.seed)
    return Predicted(val.target.numpy(), predict(probe, val), val.group.numpy())


def _pairs(split: Frozen, part: str, relation: str, pairs_per_object: int) -> Pairs:
    assert split.latents is not None
    names = [f"latent_{i}" for i in range(split.latents.shape[1])]
    related = RELATIONS[relation]
    assert isinstance(related, Recorded)
    pairs = relation_pairs(
        split.part(part),
        split.latents,
        split.sample,
        relate=lambda first, second: related.between(first, second, names),
        pairs_per_object=pairs_per_object,
    )
    return replace(pairs, group=torch.from_numpy(split.group)[pairs.first])


def difference(ours: Sequence[Predicted], theirs: Sequence[Predicted]) -> dict[str, dict[str, float | None]]:
    """Variance-weighted R2 over the same objects, the mean over seeds of both sides and their difference."""
    target, group = ours[0].target, ours[0].group
    for one in (*ours, *theirs):
        np.testing.assert_array_equal(one.target, target)

    def mean(side: Sequence[Predicted], weights: NDArray[np.float64]) -> float:
        return float(np.mean([variance_weighted_r2(target, one.predicted, weights) for one in side]))

    return {
        "ours": _with_ends(bootstrap(lambda weights: mean(ours, weights), group)),
        "theirs": _with_ends(bootstrap(lambda weights: mean(theirs, weights), group)),
        "difference": _with_ends(bootstrap(lambda weights: mean(ours, weights) - mean(theirs, weights), group)),
    }


def rows_of(compared: Mapping[str, Any]) -> list[Row]:
    """The differences as rows."""
    return [
        {"name": f"{relation}_r2_more", "seeds": found["seeds"], **found["r2"]["difference"]}
        for relation, found in compared.items()
    ]


def _with_ends(interval: Interval) -> dict[str, float | None]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def differences(recipes: Sequence[str], seeds: Sequence[int], runs: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of the comparisons both of whose recipes were run."""
    for relation, ours, theirs in DIFFERENCES:
        if {ours, theirs} <= set(recipes):
            sides = [
                [
                    predicted(runs / f"{recipe}-{seed}", RECIPES[recipe](), relation=relation, part=part)
                    for seed in seeds
                ]
                for recipe, part in ((ours, "equivariant"), (theirs, "invariant"))
            ]
            yield relation, {"ours": ours, "theirs": theirs, "seeds": len(seeds), "r2": difference(*sides)}


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
    torch.set_num_threads(options.workers)
    compared = dict(differences(options.recipes, options.seeds, options.runs))
    for relation, found in compared.items():
        print(f"{relation}: {found['ours']} less {found['theirs']}: {found['r2']['difference']}")
    body = {
        "suite": "objects3d",
        "about": (__doc__ or "").splitlines()[0],
        "machine": describe_machine("deepspeed", "ray", "timm"),
        "notes": NOTES,
        "labels": {name: asdict(label) for name, label in LABELS.items()},
        "rows": rows_of(compared),
        "results": results,
        "differences": compared,
    }
    if options.out is not None:
        options.out.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(body))


if __name__ == "__main__":
    try:
        main()
    except InvalidInput as error:
        print(error, file=sys.stderr)
        sys.exit(2)
