"""The verb `icl-eval`: hold out one domain after the other, let every selector choose, and say who chose best."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from viewfold.config import to_yaml
from viewfold.errors import InvalidInput
from viewfold.jobs.icl_config import IclConfig
from viewfold.jobs.icl_encoders import Prepared, prepare
from viewfold.jobs.icl_gallery import gallery
from viewfold.jobs.icl_lmm import lmm_results
from viewfold.jobs.icl_recipes import find
from viewfold.jobs.icl_report import PAGE, headline, headline_k, summary, write_report
from viewfold.jobs.icl_results import Outcomes, icl_results
from viewfold.jobs.icl_selectors import fold_choices
from viewfold.jobs.run import environment
from viewfold.pipeline.progress import progress
from viewfold.pipeline.stage import write_whole

RESULTS = "results.json"
SETTINGS = "config.yaml"


def evaluate_recipe(
    recipe: str, overrides: Sequence[str], *, lmm: str | None, model: str | None, out: Path | None
) -> str:
    """Evaluate a recipe or a YAML file with `key=value` overrides; returns what is said about it.

    `lmm` and `model` are short for `lmm.server.url=...` and `lmm.server.model=...`.
    """
    short = {"lmm.server.url": lmm, "lmm.server.model": model}
    asked = [f"{key}={json.dumps(value)}" for key, value in short.items() if value is not None]
    config = find(recipe, [*overrides, *asked])
    folder = out or Path("runs") / config.name
    results = icl_eval(config, folder)
    files = f"report: {(folder / PAGE).resolve()}   numbers: {folder / RESULTS}"
    return f"{summary(results)}\n{headline(results)}\n{files}"


def icl_eval(config: IclConfig, out: Path, *, home: Path | None = None) -> dict[str, Any]:
    """Make or find every encoder and feature set below `out`, measure, ask; write `results.json` and `report.html`.

    Killed at any time, the same call goes on: finished stages are found, a training continues from its checkpoint, and
    a model is asked only what its log lacks. `home` holds the registry; the folder above `out` when left out.

    Raises:
        InvalidInput: `out` holds other things, a fold has nobody to ask, and what the stages refuse.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / SETTINGS).is_file():
        raise InvalidInput(f"{out}: holds other things than an evaluation; name another folder with --out")
    _write(out / SETTINGS, to_yaml(config))
    prepared = prepare(config, out, home or out.absolute().parent)
    with progress("select", total=len(prepared.folds)) as bar:
        folds = {}
        for fold, features in prepared.folds.items():
            folds[fold] = fold_choices(config, features)
            bar.advance()
    outcomes = Outcomes(config, folds)
    results = {**icl_results(outcomes), **_lineage(prepared)}
    if config.lmm is not None:
        results["lmm"] = lmm_results(config, folds, prepared.manifest, out)
    _write(out / RESULTS, json.dumps(results, indent=2))
    write_report(results, gallery(config, folds, prepared.manifest, k=headline_k(results)), out)
    return results


def _lineage(prepared: Prepared) -> dict[str, Any]:
    return {
        "manifest_hash": prepared.records["data"].result["manifest_hash"],
        "stages": {
            name: {"seconds": record.seconds, "reused": record.reused, "encoder_id": record.result.get("encoder_id")}
            for name, record in prepared.records.items()
        },
        "environment": environment(),
    }


def _write(path: Path, text: str) -> None:
    write_whole(path, lambda file: file.write(f"{text.rstrip()}\n".encode()))
