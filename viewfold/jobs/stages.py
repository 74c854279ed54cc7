"""The stages of a run: what each reads of the configuration, which others it needs, and what it does."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viewfold.config import dump, essence
from viewfold.errors import ArtifactMismatch
from viewfold.jobs.cluster import cluster
from viewfold.jobs.compare import compare
from viewfold.jobs.data import PICKS, DataConfig, index_checked, shard_stamps, source
from viewfold.jobs.embed import embed
from viewfold.jobs.evaluate import CARD, PAGE, Candidate, evaluate_encoders
from viewfold.jobs.index import build_index
from viewfold.jobs.mine import mine
from viewfold.jobs.register import register
from viewfold.jobs.registry_server import shown
from viewfold.jobs.run_config import RunConfig
from viewfold.jobs.run_folder import Run
from viewfold.jobs.start import note_if_moved, start_from
from viewfold.jobs.tracking import keep_card, settings_of
from viewfold.jobs.train import check_training, train_encoder
from viewfold.jobs.train_config import TrainConfig, TrainJob, training_data
from viewfold.pipeline.state import STATE_NAME, read_state
from viewfold.ssl.checkpoint import latest_checkpoint


@dataclass(frozen=True)
class Stage:
    """How one stage is made: what it reads of the configuration, which stages it needs, what it does."""

    settings: Callable[[RunConfig], Any]
    """The part of the configuration that the stage depends on; None leaves the stage out."""
    needs: tuple[str, ...]
    make: Callable[[Run, Path], dict[str, Any]]
    reads: Callable[[Run], Mapping[str, str]] = lambda run: {}
    """Identities of what it reads from outside the run."""
    guard: Callable[[Run], None] = lambda run: None
    """Refuses to throw away half-done work that cost hours; says what a user would wonder at."""
    check: Callable[[Run, Path], None] = lambda run, out: None
    """Refuses, right before it is made, what cannot be."""


def _data(run: Run, out: Path) -> dict[str, Any]:
    return index_checked(run.config.data, out)


def _validation(run: Run, out: Path) -> dict[str, Any]:
    assert run.config.validation is not None
    return index_checked(run.config.validation, out)


def _guard_training(run: Run, stage: str, config: TrainConfig | None, data: DataConfig) -> None:
    """A training that was cut goes on only with the data it began with, and is not thrown away for other data."""
    assert config is not None
    cut = latest_checkpoint(run.folder / f"{stage}.part" / "checkpoints")
    if cut is None or not (cut / STATE_NAME).is_file():
        return
    state, manifest = read_state(cut), source(run.manifest(), training_data(config, data, run.manifest()))
    if state.manifest_hash != manifest.hash:
        raise ArtifactMismatch(
            f"{run.folder}: {stage} was cut at {cut.name} on data {state.manifest_hash}, and there is data "
            f"{manifest.hash} now; bring the old shards back, or remove {cut.parents[1]} to begin again"
        )


def _start(run: Run, out: Path) -> dict[str, Any]:
    return start_from(run.config.start, run.home, out)


def _pretraining(run: Run, out: Path) -> TrainJob:
    config = run.config
    assert config.pretrain is not None
    assert config.encoder is not None
    return TrainJob(config.pretrain, run.manifest().resolve(), run.sources(), config.encoder, out.resolve())


def _mine(run: Run, out: Path) -> dict[str, Any]:
    assert run.config.mine is not None
    run.start_ray()
    return mine((run.base / "encoder").resolve(), source(run.manifest(), run.sources()), run.config.mine, out)


def _adaptation(run: Run, out: Path) -> TrainJob:
    assert run.config.adapt is not None
    return TrainJob(
        run.config.adapt,
        run.manifest().resolve(),
        run.adapt_sources(),
        (run.base / "encoder").resolve(),
        out.resolve(),
        pairs=(run.folder / "mine").resolve() if run.config.mine else None,
    )


def _train(run: Run, job: TrainJob, what: str) -> dict[str, Any]:
    run.start_ray()
    return train_encoder(job, what=what, registry=run.registry(), run_name=run.label)


def _cluster(run: Run, out: Path) -> dict[str, Any]:
    assert run.config.cluster is not None
    return cluster(run.encoder, source(run.manifest(), run.sources()), run.config.cluster, out)


def _evaluate(run: Run, out: Path) -> dict[str, Any]:
    assert run.config.evaluate is not None
    val = run.asked()
    assert val is not None
    train = source(run.manifest(), run.sources())
    candidates = {"trained": Candidate.load(run.encoder)}
    if run.config.adapt is not None:
        candidates["against"] = Candidate.load(run.base / "encoder")
    candidates["untrained"] = Candidate.load(run.base / "untrained")
    card = evaluate_encoders(candidates, train=train, val=val, config=run.config.evaluate, out=out)
    files = {"card": [out / CARD, out / PAGE], "": settings_of(run.folder)}
    params = dump(run.config.evaluate)
    keep_card(run.registry(), run.folder, f"{run.label}/evaluate", card, files, params=params)
    return {name: card[name] for name in ("encoders", "data", "measures", "skipped")}


def _embed(run: Run, out: Path) -> dict[str, Any]:
    run.start_ray()
    assert run.config.embed is not None
    encoders = {"untrained": run.base / "untrained", "pretrained": run.base / "encoder"}
    if run.config.adapt is not None:
        encoders["adapted"] = run.encoder
    return embed(encoders, run.manifest().resolve(), run.config.embed, out)


def _index(run: Run, out: Path) -> dict[str, Any]:
    assert run.config.index is not None
    return build_index(
        run.folder / "embed",
        source(run.manifest(), run.sources()),
        run.config.index,
        shown=run.sources(),
        card=run.card.get("card"),
        out=out,
    )


def _compare(run: Run, out: Path) -> dict[str, Any]:
    assert run.config.compare is not None
    return compare(run.folder / "embed", run.folder / "index" / "bundle", run.config.compare, run.config.held_out, out)


def _bounds(config: RunConfig) -> dict[str, Any]:
    """Which samples may be learned from and shown; the manifest, which later stages know by its hash, has all."""
    picked = _picked(config.data)
    return {"held_out": config.held_out, **({"data": picked} if picked else {})}


def _measured(config: RunConfig) -> dict[str, Any] | None:
    if config.evaluate is None:
        return None
    asked = {} if config.validation is None else _picked(config.validation)
    bounds = {**_bounds(config), **({"validation": asked} if asked else {})}
    return {**dump(config.evaluate), **{name: bound for name, bound in bounds.items() if bound}}


def _picked(data: DataConfig) -> dict[str, Any]:
    return {name: pick for name, pick in dump(data).items() if name in PICKS and pick}


def _replay(config: RunConfig) -> dict[str, Any]:
    return {} if config.data.replay is None else {"replay": dump(config.data.replay)}


def _stamps(data: DataConfig | None) -> Mapping[str, str]:
    return shard_stamps(data.shards) if data else {}


STAGES: dict[str, Stage] = {
    "data": Stage(lambda c: c.data, (), _data, reads=lambda run: _stamps(run.config.data)),
    "validation": Stage(lambda c: c.validation, (), _validation, reads=lambda run: _stamps(run.config.validation)),
    "start": Stage(
        lambda c: c.start or None,
        (),
        _start,
        guard=lambda run: note_if_moved(run.config.start, run.home, run.folder / "start"),
    ),
    "pretrain": Stage(
        lambda c: c.pretrain and {"train": essence(c.pretrain), "encoder": c.encoder and dump(c.encoder), **_bounds(c)},
        ("data",),
        lambda run, out: _train(run, _pretraining(run, out), "pretrain"),
        guard=lambda run: _guard_training(run, "pretrain", run.config.pretrain, run.sources()),
        check=lambda run, out: check_training(_pretraining(run, out)),
    ),
    "mine": Stage(lambda c: c.mine and {"mine": essence(c.mine), **_bounds(c)}, ("data", "start", "pretrain"), _mine),
    "adapt": Stage(
        lambda c: c.adapt and {"train": essence(c.adapt), **_bounds(c), **_replay(c)},
        ("data", "start", "pretrain", "mine"),
        lambda run, out: _train(run, _adaptation(run, out), "adapt"),
        guard=lambda run: _guard_training(run, "adapt", run.config.adapt, run.adapt_sources()),
        check=lambda run, out: check_training(_adaptation(run, out)),
    ),
    "cluster": Stage(
        lambda c: c.cluster and {"cluster": dump(c.cluster), **_bounds(c)},
        ("data", "start", "pretrain", "adapt"),
        _cluster,
    ),
    "evaluate": Stage(_measured, ("data", "validation", "start", "pretrain", "adapt"), _evaluate),
    "embed": Stage(lambda c: c.embed, ("data", "start", "pretrain", "adapt"), _embed),
    "index": Stage(lambda c: c.index and {"index": dump(c.index), **_bounds(c)}, ("data", "embed", "evaluate"), _index),
    "register": Stage(
        lambda c: c.register_as and {"name": c.register_as, "alias": c.alias},
        ("start", "pretrain", "adapt", "evaluate", "index"),
        register,
        reads=lambda run: {"server": shown(os.environ.get("MLFLOW_TRACKING_URI", ""))},  # it is written down
    ),
    "compare": Stage(
        lambda c: c.compare and {"compare": dump(c.compare), "held_out": c.held_out}, ("embed", "index"), _compare
    ),
}
"""Every stage, in an order in which each comes after what it needs."""
