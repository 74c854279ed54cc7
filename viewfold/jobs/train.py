"""Pretrain and adapt: a manifest and a method become an encoder folder, on any number of Ray Train workers."""

import os
import sys
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from viewfold.augment import make_views, policy_warnings
from viewfold.config import dump, essence, fingerprint
from viewfold.errors import InvalidInput
from viewfold.jobs.data import source
from viewfold.jobs.frozen import reads_features
from viewfold.jobs.registry import Registry
from viewfold.jobs.step_selection import StepSelection, selection_sources
from viewfold.jobs.supply import Samples, Supply, features_supply, images_supply
from viewfold.jobs.tracking import track_training
from viewfold.jobs.train_build import build_engine, build_method, start_encoder, start_head
from viewfold.jobs.train_config import TrainJob, learned, mined_partners
from viewfold.jobs.train_export import export, keep_head
from viewfold.pipeline.elastic import Elastic
from viewfold.pipeline.executor import Worker, has_gpus, run_workers
from viewfold.pipeline.ledger import Ledger
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.order import Balanced, Order
from viewfold.pipeline.partners import Partners
from viewfold.pipeline.progress import follow, progress
from viewfold.pipeline.quarantine import QUARANTINE_NAME
from viewfold.pipeline.state import read_state, step_of, write_state
from viewfold.pipeline.stream import Stream, check_stream
from viewfold.pipeline.stream_config import make_order
from viewfold.ssl.checkpoint import Progress, fill_checkpoint, load_checkpoint
from viewfold.ssl.encoder import EncoderConfig, save_encoder
from viewfold.ssl.loop import checkpoint_hook, metrics_hook, train
from viewfold.ssl.methods import Method
from viewfold.ssl.watch import CollapseWatch

METRICS = "metrics.jsonl"


def check_training(job: TrainJob) -> None:
    """Find what would stop every worker in its first second, before any is started; warn of what would spoil the views.

    Raises:
        InvalidInput: samples, batch, workers, encoder and method do not fit together; says which and how to mend it.
    """
    manifest = learned(job)
    partners = mined_partners(job, manifest)
    check_stream(manifest, job.config.stream, world_size=job.config.workers, partners=partners)
    _note_short_cells(make_order(manifest if partners is None else manifest.take(partners.anchors), job.config.stream))
    if job.config.stream.ledger:
        _check_ledger(Path(job.config.stream.ledger), job.out)
    if isinstance(job.start, EncoderConfig) and job.config.train.what != "full":
        raise InvalidInput(
            f"train.what={job.config.train.what}: the rest of a new encoder would stay random; train the whole of "
            "it, or begin with a trained one (start=...)"
        )
    encoder = start_encoder(job.config, job.start)
    if job.config.features and not reads_features(
        job.config.train, job.config.policy, job.config.stream, manifest, paired=partners is not None
    ):
        raise InvalidInput(
            f"features={job.config.features}: this training reads its images at every step (drawn views, pairs, "
            "samples of several images, max_bad_share or a ledger), so nothing would be kept there; leave it out"
        )
    own, given = encoder.config.preprocessing.image_size, job.config.stream.image_size
    if own != given:
        raise InvalidInput(
            f"stream.image_size={given}, but the encoder takes {own} px images: it would train on others than it is "
            "later given; set both to the same"
        )
    build_method(job.config, manifest, encoder, start_head(job.start, encoder), paired=partners is not None)
    for warning in policy_warnings(job.config.policy):
        print(f"warning: {warning}", file=sys.stderr)


def _note_short_cells(order: Order) -> None:
    if isinstance(order, Balanced) and order.short_cells:
        print(
            f"note: {order.short_cells} cells (class and domain) have fewer samples than places in a batch: theirs "
            f"repeat; {order.empty_cells} have none",
            file=sys.stderr,
        )


def _check_ledger(folder: Path, out: Path) -> None:
    """Whether a ledger can be written there, which is not another run's."""
    if folder.exists() and not folder.is_dir():
        raise InvalidInput(f"stream.ledger={folder}: is a file; name a folder")
    if any(folder.glob("rank-*.jsonl")) and not (out / "checkpoints" / "attempts").is_file():
        raise InvalidInput(f"stream.ledger={folder}: holds the ledger of another run; remove it, or name another")


def _with_absolute_ledger(job: TrainJob) -> TrainJob:
    """Workers on other machines have other working folders."""
    if not job.config.stream.ledger:
        return job
    stream = replace(job.config.stream, ledger=str(Path(job.config.stream.ledger).absolute()))
    return replace(job, config=replace(job.config, stream=stream))


def train_encoder(job: TrainJob, *, what: str, registry: Registry, run_name: str) -> dict[str, Any]:
    """Train on Ray workers, leave `encoder/`, `metrics.jsonl` and `quarantine.jsonl` in `job.out`; returns its facts.

    `what` names the bar on the terminal; rows of metrics go to the tracking server as they appear. A call that finds
    the checkpoints of an interrupted one goes on from the last. Use inside of `ray_session()`.
    """
    config = job.config
    manifest = learned(job)
    tags = {"manifest_hash": manifest.hash, "method": config.method.name, "run": run_name}
    with ExitStack() as stack:
        name, params = f"{run_name}/{what}", dump(config)
        tracked = stack.enter_context(track_training(registry, job.out, name, params=params, tags=tags))
        bar = stack.enter_context(progress(what, total=config.steps))
        last: dict[str, Any] = {"step": 0}

        def on_row(row: dict[str, Any]) -> None:
            shown = ["loss", "samples_s", "data_wait", *(["quarantined"] if row["quarantined"] else [])]
            facts = {name: row[name] for name in shown if name in row}
            if row["attempt"] != last.get("attempt", row["attempt"]):
                group = f"{row['workers']} worker{'s' if row['workers'] > 1 else ''}"
                bar.say(f"{what}: {group} went on from step {row['from_step']}, {row['from_samples']} samples")
            bar.advance(row["step"] - last["step"], **facts)
            last.clear()
            last.update(row)
            tracked.log_row(row)

        stack.enter_context(follow(job.out / METRICS, on_row))
        result = run_workers(
            train_worker,
            _with_absolute_ledger(job),
            num_workers=Elastic(config.sizes),
            storage=job.out,
            name="checkpoints",
            max_failures=config.max_failures,
            use_gpu=has_gpus(),
        )
    return {**result, "manifest_hash": manifest.hash, "num_samples": len(manifest), "last_row": last}


def train_worker(worker: Worker, job: TrainJob) -> dict[str, Any]:
    """One rank of a training; rank 0 writes metrics and the encoder."""
    config = job.config
    # Ray leaves each worker one. More threads than cores that may be used would wait for each other, spinning.
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // worker.world_size))
    manifest = learned(job)
    if isinstance(job.start, EncoderConfig) and worker.rank == 0:
        _keep_untrained(job, manifest)
    partners = mined_partners(job, manifest)
    supply = _supply(job, worker, manifest, partners)
    engine, method = build_engine(config, manifest, job.start, worker.device, paired=partners is not None)
    choice = None if config.select is None else StepSelection(config.select, engine, supply.embed, job.out)
    standing, start_step = Progress(), 0
    with worker.checkpoint() as folder:
        if folder is not None:
            start_step = step_of(read_state(folder), manifest, config.stream, partners)
            standing = load_checkpoint(folder, engine)
        if choice is not None:
            choice.begin(method.encoder, folder, standing.step)
    batches = supply.batches(range(start_step, config.steps))
    if isinstance(batches, Stream) and config.stream.ledger:
        num_samples = len(manifest) if partners is None else len(partners.anchors)
        batches.keep(_ledger(Path(config.stream.ledger), worker, manifest.hash, num_samples, start_step))
    began = {
        "attempt": worker.attempt,
        "workers": worker.world_size,
        "from_step": standing.step,
        "from_samples": standing.samples,
    }

    def save(now: Progress) -> None:
        with worker.checkpoint_folder() as folder:
            fill_checkpoint(folder, engine, now)
            if worker.rank == 0:
                write_state(folder, batches.state(now.step))
                if choice is not None:
                    choice.save(folder)
            worker.report({"step": now.step}, checkpoint=folder)

    train(
        engine,
        batches,
        supply.views,
        progress=standing,
        steps=config.steps,
        hooks=[
            metrics_hook(
                job.out / METRICS,
                every=config.log_every,
                progress=standing,
                watch=CollapseWatch(config.watch),
                counts=lambda: {"quarantined": batches.num_bad, "repeated": batches.num_repeated, **began},
            ),
            *([] if choice is None else [choice.hook()]),
            checkpoint_hook(every=config.checkpoint_every, save=save),
        ],
    )
    return export(engine, method, job.out / "encoder", lineage=_lineage(job, method, manifest), choice=choice)


def _supply(job: TrainJob, worker: Worker, manifest: ShardManifest, partners: Partners | None) -> Supply:
    """A call of all ranks."""
    config = job.config
    queries = None
    if config.select is not None:
        loaded = ShardManifest.load(job.manifest)
        queries = source(job.manifest, selection_sources(job.data, config.select, loaded).queries)
    samples = Samples(manifest, queries, config.stream)
    if reads_features(config.train, config.policy, config.stream, manifest, paired=partners is not None):
        kept = Path(config.features) if config.features else None
        return features_supply(samples, worker, start_encoder(config, job.start), kept=kept)
    views = partial(
        make_views, policy=config.policy, seed=config.seed, device=worker.device, compiled=config.compile_views
    )
    return images_supply(samples, worker, views, partners=partners, quarantine=job.out / QUARANTINE_NAME)


def _ledger(folder: Path, worker: Worker, manifest_hash: str, num_samples: int, step: int) -> Ledger:
    """This rank's side of the ledger."""
    ledger = Ledger(folder, rank=worker.rank, attempt=worker.attempt)
    ledger.begin(step=step, world_size=worker.world_size, manifest_hash=manifest_hash, num_samples=num_samples)
    return ledger


def _keep_untrained(job: TrainJob, manifest: ShardManifest) -> None:
    """Write encoder and head as they are before the first step: what the trained ones are held against."""
    encoder, folder = start_encoder(job.config, job.start), job.out / "untrained"
    method = build_method(job.config, manifest, encoder, None, paired=job.pairs is not None)
    identity = save_encoder(encoder, folder, lineage={"seed": job.config.seed})
    keep_head(method, method.state_dict(), folder, identity)


def _lineage(job: TrainJob, method: Method, manifest: ShardManifest) -> dict[str, Any]:
    return {
        "manifest_hash": manifest.hash,
        "start": method.encoder.id,
        "method": dump(job.config.method),
        "steps": job.config.steps,
        "seed": job.config.seed,
        # With a frozen encoder it is the head alone that other settings change, and a head belongs to one identity.
        "settings": fingerprint(essence(job.config)),
    }
