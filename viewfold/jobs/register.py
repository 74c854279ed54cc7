"""The stage `register`: a run's encoder becomes a version in the model registry."""

import json
import sys
from pathlib import Path
from typing import Any

from viewfold.jobs.overwrite import REGISTRATION, lost_champion
from viewfold.jobs.pair_folders import REGISTERED
from viewfold.jobs.registry_server import shown
from viewfold.jobs.run_folder import Run
from viewfold.pipeline.progress import progress
from viewfold.ssl.encoder import load_encoder

PENDING = "pending"
"""Value of the tag `validation_status` until gates have judged the version."""


def register(run: Run, out: Path) -> dict[str, Any]:
    """Register the encoder with the files of its card, if it was measured, and move the run's alias to it.

    The bundle, if one was built, stays where it is: its location is a tag, as are the run's folder, what data and which
    version (`parent`) the encoder came from.
    """
    name = run.config.register_as
    assert name is not None
    tags, registry = _tags(run, name), run.registry()
    invariant = load_encoder(run.encoder).parts["invariant"]
    with (
        progress("register", total=1) as bar,
        registry.run("viewfold", f"{run.label}/register", params={"model": name}, tags=tags) as tracked,
    ):
        files = {what: path.resolve() for what, path in {"encoder": run.encoder, **run.card}.items()}
        dim = invariant.stop - invariant.start
        note = lost_champion(run, name)
        version = registry.register(name, files, dim=dim, run=tracked, tags=tags, alias=run.config.alias)
        bar.advance()
    if note:
        print(note, file=sys.stderr)
    uri = f"{REGISTERED}{name}@{run.config.alias}"
    result = {"model": name, "version": version, "uri": uri, "tracking": shown(registry.uri), **tags}
    (out / REGISTRATION).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def _tags(run: Run, name: str) -> dict[str, str]:
    facts = _read(run.encoder / "encoder.json")
    tags = {
        "encoder_id": str(facts["id"]),
        "manifest_hash": str(facts["lineage"].get("manifest_hash", "")),
        "run": run.label,
        "run_folder": str(run.folder.resolve()),
        "validation_status": PENDING,
    }
    if run.config.index is not None:
        bundle = run.folder / "index" / "bundle"
        info = _read(bundle / "bundle.json")
        tags |= {"bundle": str(bundle.resolve()), "bundle_id": info["id"], "manifest_hash": info["manifest_hash"]}
    began = str(run.records["start"].result["from"]) if run.config.start else ""
    if began.startswith(f"{REGISTERED}{name}/"):
        tags["parent"] = began.rpartition("/")[2]
    return tags


def _read(file: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return facts
