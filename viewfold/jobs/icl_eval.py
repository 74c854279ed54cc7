"""The verb `icl-eval`: hold out one domain after the other, let every selector choose, and say who chose best."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from viewfold.errors import InvalidInput
from viewfold.jobs.icl_config import PAGE, RESULTS, SETTINGS, IclConfig
from viewfold.jobs.icl_encoders import Prepared, prepare
from viewfold.jobs.icl_gallery import gallery
from viewfold.jobs.icl_lmm import lmm_results
from viewfold.jobs.icl_recipes import find
from viewfold.jobs.icl_report import headline, headline_k, summary, write_report
from viewfold.jobs.icl_results import Outcomes, icl_results
from viewfold.jobs.icl_selectors import fold_choices
from viewfold.jobs.run import environment
from viewfold.pipeline.progress import progress
from viewfold.pipeline.stage import write_whole

_INDEXED = {"data", "data.part", ".data.lock"}  # what is there before the settings are


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

    Both are written before a model is asked, and again with its answers. Killed at any time, the same call goes on:
    finished stages are found, a training continues from its checkpoint, and a model is asked only what its log lacks.
    `home` holds the registry; the folder above `out` when left out.

    Raises:
        InvalidInput: `out` holds other things, the address of the model cannot be used, a fold has nobody to ask, and
            what the stages refuse.
        MissingDependency: a server is to be asked, and `openai` is not installed.
    """
    client = None if config.lmm is None else config.lmm.server.client()
    if out.is_dir() and {path.name for path in out.iterdir()} - _INDEXED and not (out / SETTINGS).is_file():
        raise InvalidInput(f"{out}: holds other things than an evaluation; name another folder with --out")
    prepared = prepare(config, out, home or out.absolute().parent)
    with progress("select", total=len(prepared.folds)) as bar:
        folds = {}
        for fold, features in prepared.folds.items():
            folds[fold] = fold_choices(config, features)
            bar.advance()
    results = {**icl_results(Outcomes(config, folds)), **_lineage(prepared)}
    pictures = gallery(config, folds, prepared.manifest, k=headline_k(results))
    _write(results, pictures, out)
    if client is not None:
        results["lmm"] = lmm_results(config, folds, prepared.manifest, out, client)
        _write(results, pictures, out)
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


def _write(results: Mapping[str, Any], pictures: Mapping[str, Any], out: Path) -> None:
    text = json.dumps(results, indent=2) + "\n"
    write_whole(out / RESULTS, lambda file: file.write(text.encode()))
    write_report(results, pictures, out)
