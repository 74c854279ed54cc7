"""A run: the stages of a recipe in one folder, each made once and found again by its fingerprint."""

import json
import platform
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from viewfold import __version__
from viewfold.config import Config, dump, fingerprint, to_yaml
from viewfold.errors import InvalidInput
from viewfold.jobs.overwrite import keep_champion
from viewfold.jobs.run_config import RunConfig
from viewfold.jobs.run_folder import Run
from viewfold.jobs.stages import STAGES
from viewfold.pipeline.stage import STARTED, StageRecord, code_version, read_record, run_stage, write_whole

_TAKEN_IN = ("data", "validation", "start")
"""What a run begins with: what is built on it may be refused yet."""


def run_recipe(
    config: RunConfig, folder: Path, *, home: Path | None = None, until: str | None = None
) -> dict[str, StageRecord]:
    """Make every stage of `config` in `folder`, or those that `until` needs; what is done is skipped.

    `home`, a folder above it, holds the registry unless a server is named; it is the next one above when left out.
    """
    wanted = _wanted(config, until)
    _require_run_folder(folder)
    if not _is_run(folder):
        _keep_settings(config, folder)
    with ExitStack() as resources:
        run = Run(config, folder, home or folder.absolute().parent, resources)
        for name in wanted:
            run.records[name] = _found_or_made(run, name)
    _keep_settings(config, folder)
    known = folder / "results.json"
    before = json.loads(known.read_text(encoding="utf-8")) if known.is_file() else {}
    _write(known, json.dumps({**before, **results(run.records)}, indent=2))
    return run.records


def _require_run_folder(folder: Path) -> None:
    """Make the folder; one that is there must be empty or a run's, so that a mistyped path overwrites nothing.

    Raises:
        InvalidInput: it holds other things, or cannot be made.
    """
    if folder.is_dir() and any(folder.iterdir()) and not _is_run(folder):
        raise InvalidInput(f"{folder}: holds other things than a run; name another folder with --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"{folder}: cannot be a run folder ({error.strerror}); name another with --out") from None


def _is_run(folder: Path) -> bool:
    return (folder / "environment.json").is_file() and (folder / "config.yaml").is_file()


def _keep_settings(config: RunConfig, folder: Path) -> None:
    _write(folder / "config.yaml", to_yaml(config))
    _write(folder / "environment.json", json.dumps(environment(), indent=2))


def _found_or_made(run: Run, name: str) -> StageRecord:
    stage = STAGES[name]
    stage.guard(run)
    upstream = {need: identity(need, run.records[need]) for need in stage.needs if need in run.records}
    settings, inputs = _plain(stage.settings(run.config)), {**stage.reads(run), **upstream}
    mark, record = fingerprint(name, settings, inputs, code_version()), read_record(run.folder / name)
    if record is None or record.fingerprint != mark:
        keep_champion(run, name)
    started = run.folder / f"{name}.part" / STARTED
    if started.is_file() and started.read_text() != mark:
        print(f"note: {name} begins again: settings, inputs or code have changed since it was cut", file=sys.stderr)
    return run_stage(
        run.folder / name,
        name=name,
        config=settings,
        inputs=inputs,
        make=partial(_made, run, name),
        code_version=code_version(),
    )


def _made(run: Run, name: str, out: Path) -> dict[str, Any]:
    """The settings are kept once nothing refuses them any more: until then those of the finished stages stay."""
    stage = STAGES[name]
    stage.check(run, out)
    if name not in _TAKEN_IN:
        _keep_settings(run.config, run.folder)
    return stage.make(run, out)


def identity(name: str, record: StageRecord) -> str:
    """What a stage that builds on this one depends on: data is what it holds, anything else is new when made again."""
    return str(record.result["manifest_hash"]) if name in ("data", "validation") else record.id


def results(records: Mapping[str, StageRecord]) -> dict[str, dict[str, Any]]:
    """What each stage answered, with how long it took and whether it was found finished."""
    return {name: {"seconds": r.seconds, "reused": r.reused, **r.result} for name, r in records.items()}


def environment() -> dict[str, str]:
    """What a result depends on beside its configuration."""
    packages = ("torch", "timm", "ray", "deepspeed", "kornia", "webdataset", "faiss-cpu", "faiss-gpu-cu12", "mlflow")
    return {
        "viewfold": __version__,
        "code": code_version(),
        "python": platform.python_version(),
        "machine": platform.platform(),
        **{name: installed for name in packages if (installed := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def summary(config: RunConfig, folder: Path, records: Mapping[str, StageRecord]) -> str:
    """One line a stage: made or found, seconds, where."""
    lines = [
        f"{'found' if r.reused else 'made':5} {name:9} {r.seconds:6.1f} s  {r.folder}" for name, r in records.items()
    ]
    return "\n".join([*lines, f"run {config.name}: {folder}"])


def _wanted(config: RunConfig, until: str | None) -> list[str]:
    present = [name for name, stage in STAGES.items() if stage.settings(config) is not None]
    if until is None:
        return present
    if until not in present:
        raise InvalidInput(f"recipe {config.name!r} has no stage {until!r}; it has {', '.join(present)}")
    needed = {until}
    for name in reversed(present):
        if name in needed:
            needed |= set(STAGES[name].needs)
    return [name for name in present if name in needed]


def _write(path: Path, text: str) -> None:
    write_whole(path, lambda file: file.write(f"{text.rstrip()}\n".encode()))


def _plain(settings: Any) -> Any:
    return dump(settings) if isinstance(settings, Config) else settings
