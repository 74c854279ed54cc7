"""A run: the stages of a recipe in one folder, each made once and found again by its fingerprint."""

import json
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from viewfold import __version__
from viewfold.config import Config, dump, essence, fingerprint, to_yaml
from viewfold.errors import ArtifactMismatch, InvalidInput
from viewfold.jobs.compare import CompareConfig, compare
from viewfold.jobs.data import DataConfig, index_checked, shard_stamps, source
from viewfold.jobs.embed import EmbedConfig, embed
from viewfold.jobs.evaluate import CARD, PAGE, Candidate, evaluate_encoders
from viewfold.jobs.evaluate_config import EvaluateConfig
from viewfold.jobs.index import IndexConfig, build_index, register
from viewfold.jobs.registry import Registry
from viewfold.jobs.train import TrainConfig, TrainJob, check_training, train_encoder
from viewfold.pipeline.executor import ray_session
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.stage import STARTED, StageRecord, code_version, run_stage, write_whole
from viewfold.pipeline.state import STATE_NAME, read_state
from viewfold.ssl.checkpoint import latest_checkpoint
from viewfold.ssl.encoder import EncoderConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """All stages of a run; a stage whose settings are left out is not made."""

    name: str
    """Also the default run folder, `runs/NAME`."""
    data: DataConfig
    held_out: tuple[str, ...] = ()
    """Domains that no training and no index ever sees: they only ask."""
    validation: DataConfig | None = None
    """Where the encoder is measured; the held-out domains of `data` when left out."""
    encoder: EncoderConfig
    pretrain: TrainConfig
    adapt: TrainConfig | None = None
    evaluate: EvaluateConfig | None = None
    embed: EmbedConfig | None = None
    index: IndexConfig | None = None
    register_as: str | None = None
    """Name in the model registry; the alias `champion` is moved to the new version."""
    compare: CompareConfig | None = None

    def __post_init__(self) -> None:
        needs = {"index": ("embed",), "register_as": ("index",), "compare": ("index",)}
        for stage, others in needs.items():
            missing = [other for other in others if getattr(self, other) is None]
            if getattr(self, stage) is not None and missing:
                raise ValueError(
                    f"{stage} needs {', '.join(missing)}, which this run leaves out; add it, or drop {stage}"
                )
        ledger = self.pretrain.stream.ledger
        if ledger and self.adapt is not None and self.adapt.stream.ledger == ledger:
            raise ValueError(f"pretrain and adapt cannot share stream.ledger={ledger}; name two folders")
        if self.register_as is not None and not re.fullmatch(r"[\w.-]+", self.register_as):
            raise ValueError(f"register_as takes letters, digits, '_', '-' and '.', got {self.register_as!r}")
        if self.evaluate is not None and self.validation is None and not self.held_out:
            raise ValueError(
                "evaluate needs other data than it was trained on: give `validation`, or `held_out` domains"
            )
        if self.compare is not None and not self.held_out:
            raise ValueError("compare asks with the images of `held_out` domains, and there are none; name some")


@dataclass(frozen=True)
class Run:
    """A configuration and the folder that its stages fill."""

    config: RunConfig
    folder: Path
    home: Path
    """Where runs and their registry lie."""
    resources: ExitStack
    """Closed when the run is over."""
    records: dict[str, StageRecord] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """How the run is called on the tracking server: its path below `home`."""
        return Path(os.path.relpath(self.folder, self.home)).as_posix()

    def manifest(self, stage: str = "data") -> Path:
        """Where a manifest of this run lies."""
        return self.folder / stage / "manifest.json"

    def sources(self, *, labelled: bool = False) -> DataConfig:
        """What may be learned from and retrieved: everything but the held-out domains."""
        data = self.config.data
        return DataConfig(
            shards=data.shards,
            domains=data.domains,
            without_domains=(*data.without_domains, *self.config.held_out),
            labelled=data.labelled or labelled,
        )

    @property
    def encoder(self) -> Path:
        """The encoder that the run is about: the adapted one where there is one."""
        return self.folder / ("adapt" if self.config.adapt else "pretrain") / "encoder"

    @property
    def card(self) -> dict[str, Path]:
        """The files of the encoder's card, where the run measures it."""
        folder = self.folder / "evaluate"
        return {"card": folder / CARD, "card_page": folder / PAGE} if self.config.evaluate else {}

    def start_ray(self) -> None:
        """Have Ray from here to the end of the run: a run that finds all its stages finished never starts it."""
        self.resources.enter_context(ray_session())

    def registry(self) -> Registry:
        """Shared by all runs of `home`."""
        return Registry(self.home)


@dataclass(frozen=True)
class Stage:
    """How one stage is made: what it reads of the configuration, which stages it needs, what it does."""

    settings: Callable[[RunConfig], Any]
    """The part of the configuration that the stage depends on; None leaves the stage out."""
    needs: tuple[str, ...]
    make: Callable[[Run, Path], dict[str, Any]]
    reads: Callable[[RunConfig], Mapping[str, str]] = lambda config: {}
    """Identities of what it reads from outside the run."""
    guard: Callable[[Run], None] = lambda run: None
    """Refuses to throw away half-done work that cost hours."""


def run_recipe(
    config: RunConfig, folder: Path, *, home: Path | None = None, until: str | None = None
) -> dict[str, StageRecord]:
    """Make every stage of `config` in `folder`, or those that `until` needs; what is done is skipped.

    `home`, a folder above it, holds the registry unless a server is named; it is the next one above when left out.
    """
    wanted = _wanted(config, until)
    _require_run_folder(folder)
    _write(folder / "config.yaml", to_yaml(config))
    _write(folder / "environment.json", json.dumps(environment(), indent=2))
    with ExitStack() as resources:
        run = Run(config, folder, home or folder.absolute().parent, resources)
        for name in wanted:
            run.records[name] = _found_or_made(run, name)
    known = folder / "results.json"
    before = json.loads(known.read_text(encoding="utf-8")) if known.is_file() else {}
    _write(known, json.dumps({**before, **results(run.records)}, indent=2))
    return run.records


def _require_run_folder(folder: Path) -> None:
    """Make the folder; one that is there must be empty or a run's, so that a mistyped path overwrites nothing.

    Raises:
        InvalidInput: it holds other things, or cannot be made.
    """
    mine = (folder / "environment.json").is_file() and (folder / "config.yaml").is_file()
    if folder.is_dir() and any(folder.iterdir()) and not mine:
        raise InvalidInput(f"{folder}: holds other things than a run; name another folder with --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"{folder}: cannot be a run folder ({error.strerror}); name another with --out") from None


def _found_or_made(run: Run, name: str) -> StageRecord:
    stage = STAGES[name]
    stage.guard(run)
    upstream = {need: identity(need, run.records[need]) for need in stage.needs if need in run.records}
    settings, inputs = _plain(stage.settings(run.config)), {**stage.reads(run.config), **upstream}
    started = run.folder / f"{name}.part" / STARTED
    if started.is_file() and started.read_text() != fingerprint(name, settings, inputs, code_version()):
        print(f"note: {name} begins again: settings, inputs or code have changed since it was cut", file=sys.stderr)
    return run_stage(
        run.folder / name,
        name=name,
        config=settings,
        inputs=inputs,
        make=partial(stage.make, run),
        code_version=code_version(),
    )


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


def _data(run: Run, out: Path) -> dict[str, Any]:
    return index_checked(run.config.data, out)


def _validation(run: Run, out: Path) -> dict[str, Any]:
    assert run.config.validation is not None
    return index_checked(run.config.validation, out)


def _guard_training(run: Run, stage: str, data: DataConfig) -> None:
    """A training that was cut goes on only with the data it began with, and is not thrown away for other data."""
    cut = latest_checkpoint(run.folder / f"{stage}.part" / "checkpoints")
    if cut is None or not (cut / STATE_NAME).is_file():
        return
    state, manifest = read_state(cut), source(run.manifest(), data)
    if state.manifest_hash != manifest.hash:
        raise ArtifactMismatch(
            f"{run.folder}: {stage} was cut at {cut.name} on data {state.manifest_hash}, and there is data "
            f"{manifest.hash} now; bring the old shards back, or remove {cut.parents[1]} to begin again"
        )


def _pretrain(run: Run, out: Path) -> dict[str, Any]:
    job = TrainJob(run.config.pretrain, run.manifest().resolve(), run.sources(), run.config.encoder, out.resolve())
    return _train(run, job, "pretrain")


def _adapt(run: Run, out: Path) -> dict[str, Any]:
    assert run.config.adapt is not None
    start = (run.folder / "pretrain" / "encoder").resolve()
    job = TrainJob(run.config.adapt, run.manifest().resolve(), run.sources(labelled=True), start, out.resolve())
    return _train(run, job, "adapt")


def _train(run: Run, job: TrainJob, what: str) -> dict[str, Any]:
    check_training(job)
    run.start_ray()
    return train_encoder(job, what=what, registry=run.registry(), run_name=run.label)


def _evaluate(run: Run, out: Path) -> dict[str, Any]:
    assert run.config.evaluate is not None
    if run.config.validation is not None:
        val = source(run.manifest("validation"), run.config.validation)
    else:
        val = source(run.manifest(), DataConfig(shards=run.config.data.shards, domains=run.config.held_out))
    train = source(run.manifest(), run.sources())
    candidates = {
        "trained": Candidate.load(run.encoder),
        "untrained": Candidate.load(run.folder / "pretrain" / "untrained"),
    }
    card = evaluate_encoders(candidates, train=train, val=val, config=run.config.evaluate, out=out)
    run.registry().keep_card(
        f"{run.label}/evaluate",
        card,
        [out / CARD, out / PAGE],
        params=dump(run.config.evaluate),
        encoder_id=str(candidates["trained"].encoder.id),
    )
    return {name: card[name] for name in ("encoders", "data", "measures", "skipped")}


def _embed(run: Run, out: Path) -> dict[str, Any]:
    run.start_ray()
    assert run.config.embed is not None
    encoders = {"untrained": run.folder / "pretrain" / "untrained", "pretrained": run.folder / "pretrain" / "encoder"}
    if run.config.adapt is not None:
        encoders["adapted"] = run.encoder
    return embed(encoders, run.manifest().resolve(), run.config.embed, out)


def _index(run: Run, out: Path) -> dict[str, Any]:
    assert run.config.index is not None
    return build_index(
        run.folder / "embed",
        ShardManifest.load(run.manifest()),
        run.config.index,
        held_out=run.config.held_out,
        card=run.card.get("card"),
        out=out,
    )


def _register(run: Run, out: Path) -> dict[str, Any]:
    assert run.config.register_as is not None
    return register(
        run.registry(),
        run.config.register_as,
        encoder=run.encoder,
        card=run.card,
        bundle=run.folder / "index" / "bundle",
        run_name=run.label,
        out=out,
    )


def _compare(run: Run, out: Path) -> dict[str, Any]:
    assert run.config.compare is not None
    return compare(run.folder / "embed", run.folder / "index" / "bundle", run.config.compare, run.config.held_out, out)


def _stamps(config: RunConfig) -> Mapping[str, str]:
    return shard_stamps(config.data.shards)


STAGES: dict[str, Stage] = {
    "data": Stage(lambda c: c.data, (), _data, reads=_stamps),
    "validation": Stage(
        lambda c: c.validation,
        (),
        _validation,
        reads=lambda c: shard_stamps(c.validation.shards) if c.validation else {},
    ),
    "pretrain": Stage(
        lambda c: {"train": essence(c.pretrain), "encoder": dump(c.encoder), "held_out": c.held_out},
        ("data",),
        _pretrain,
        guard=lambda run: _guard_training(run, "pretrain", run.sources()),
    ),
    "adapt": Stage(
        lambda c: c.adapt and {"train": essence(c.adapt), "held_out": c.held_out},
        ("data", "pretrain"),
        _adapt,
        guard=lambda run: _guard_training(run, "adapt", run.sources(labelled=True)),
    ),
    "evaluate": Stage(lambda c: c.evaluate, ("data", "validation", "pretrain", "adapt"), _evaluate),
    "embed": Stage(lambda c: c.embed, ("data", "pretrain", "adapt"), _embed),
    "index": Stage(
        lambda c: c.index and {"index": dump(c.index), "held_out": c.held_out}, ("data", "embed", "evaluate"), _index
    ),
    "register": Stage(
        lambda c: c.register_as,
        ("pretrain", "adapt", "evaluate", "index"),
        _register,
        reads=lambda c: {"server": os.environ.get("MLFLOW_TRACKING_URI", "")},
    ),
    "compare": Stage(
        lambda c: c.compare and {"compare": dump(c.compare), "held_out": c.held_out}, ("embed", "index"), _compare
    ),
}
"""Every stage, in an order in which each comes after what it needs."""
