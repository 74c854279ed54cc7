"""Pretrain and adapt: a manifest and a method become an encoder folder, on any number of Ray Train workers."""

import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch

from viewfold.augment import (
    POLICIES,
    NonePolicy,
    PolicyConfig,
    make_views,
    param_names,
    policy_warnings,
    relative_names,
    view_param_names,
)
from viewfold.config import Config, chosen, dump, essence, fingerprint
from viewfold.errors import InvalidInput
from viewfold.jobs.data import DataConfig, source
from viewfold.jobs.frozen import reads_features
from viewfold.jobs.registry import Registry
from viewfold.jobs.step_selection import SelectionConfig, StepSelection, selection_sources
from viewfold.jobs.supply import Samples, Supply, features_supply, images_supply
from viewfold.jobs.tracking import track_training
from viewfold.jobs.train_export import export, keep_head
from viewfold.keyed import key64
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
from viewfold.pipeline.stream_config import StreamConfig, make_order
from viewfold.ssl.checkpoint import Progress, fill_checkpoint, load_checkpoint
from viewfold.ssl.deepspeed_engine import DeepSpeedConfig, DeepSpeedEngine
from viewfold.ssl.encoder import Encoder, EncoderConfig, load_encoder, save_encoder
from viewfold.ssl.engine import AbstractEngine, LocalEngine, OptimConfig
from viewfold.ssl.kept_head import load_head
from viewfold.ssl.loop import checkpoint_hook, metrics_hook, train
from viewfold.ssl.methods import METHOD_CONFIGS, METHOD_PRESETS, METHODS, Method, MethodConfig, Task
from viewfold.ssl.subspace_head import SubspaceHead
from viewfold.ssl.trainable import TrainableConfig, set_trainable
from viewfold.ssl.watch import CollapseWatch, WatchConfig

METRICS = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """One training: what is learned, from which views, for how long, on how many workers."""

    method: Annotated[MethodConfig, chosen("method", METHOD_CONFIGS, METHOD_PRESETS)]
    train: TrainableConfig = field(default_factory=TrainableConfig)
    """What of the encoder learns. Where that is no more than an adapter or a head and `policy` draws no views, every
    image passes the backbone once, and the steps read features from memory."""
    select: SelectionConfig | None = None
    """Keep the step that is best for source domains which are then not learned from; left out: the last step."""
    features: str = ""
    """Folder in which the features of a frozen backbone are kept for the next training on the same data, on storage
    that all workers share. None where it is empty."""
    policy: Annotated[PolicyConfig, chosen("policy", POLICIES)] = field(default_factory=NonePolicy)
    compile_views: bool = False
    """Fuse the drawing of views with torch.compile: for GPUs; the first step takes a minute."""
    stream: StreamConfig = field(default_factory=StreamConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    steps: int = 1000
    """Optimizer steps; one step is one global batch of `stream.batch_size` samples."""
    workers: int = 2
    """Ray Train workers; the global batch stays what it is, whatever their number."""
    min_workers: int = 0
    """Go on with as few as this when workers are lost, and with up to `workers` when there is room again, in numbers
    that divide the batch; 0: exactly `workers`."""
    engine: Literal["deepspeed", "plain"] = "deepspeed"
    deepspeed: DeepSpeedConfig = field(default_factory=DeepSpeedConfig)
    """Read by the engine `deepspeed` only."""
    watch: WatchConfig = field(default_factory=WatchConfig)
    seed: int = 0
    """Of weights and drawn views; the order of samples has `stream.seed`."""
    checkpoint_every: int = 500
    """Steps between checkpoints; a run that is cut goes on from the last one."""
    log_every: int = 10
    """Steps between rows of metrics."""
    max_failures: int = 2
    """How often the workers are started again after one was lost."""

    RUNNING: ClassVar[tuple[str, ...]] = ("workers", "min_workers", "checkpoint_every", "max_failures", "features")

    def __post_init__(self) -> None:
        for name in ("steps", "workers", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.features and self.train.adapter is None:
            raise ValueError(f"features={self.features!r} has no effect where {self.train.what} learns; leave it out")
        if not 0 <= self.min_workers <= self.workers:
            raise ValueError(f"min_workers must lie in 0..workers={self.workers}, got {self.min_workers}")

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many workers there may be: numbers that the batch divides over, and `workers` in any case."""
        fewer = range(self.min_workers or self.workers, self.workers)
        return (*(size for size in fewer if self.stream.batch_size % size == 0), self.workers)


@dataclass(frozen=True)
class TrainJob:
    """What every worker is sent; folders lie on storage that all workers share."""

    config: TrainConfig
    manifest: Path
    data: DataConfig
    start: EncoderConfig | Path
    """A new encoder of this architecture, or the folder of one to go on from."""
    out: Path
    pairs: Path | None = None
    """The folder of a mining stage, whose pairs take the place of two images of one sample."""


def training_data(config: TrainConfig, data: DataConfig, manifest: Path) -> DataConfig:
    """What of `data` is learned from: all but the domains by which a step is chosen.

    Raises:
        InvalidInput: there are no such domains to choose by.
    """
    if config.select is None:
        return data
    return selection_sources(data, config.select, ShardManifest.load(manifest)).train


def check_training(job: TrainJob) -> None:
    """Find what would stop every worker in its first second, before any is started; warn of what would spoil the views.

    Raises:
        InvalidInput: samples, batch, workers, encoder and method do not fit together; says which and how to mend it.
    """
    manifest = _learned(job)
    partners = _partners(job, manifest)
    check_stream(manifest, job.config.stream, world_size=job.config.workers, partners=partners)
    _note_short_cells(make_order(manifest if partners is None else manifest.take(partners.anchors), job.config.stream))
    if job.config.stream.ledger:
        _check_ledger(Path(job.config.stream.ledger), job.out)
    if isinstance(job.start, EncoderConfig) and job.config.train.what != "full":
        raise InvalidInput(
            f"train.what={job.config.train.what}: the rest of a new encoder would stay random; train the whole of "
            "it, or begin with a trained one (start=...)"
        )
    encoder = _start_encoder(job.config, job.start)
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
    _build_method(job.config, manifest, encoder, _start_head(job.start, encoder), paired=partners is not None)
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
    manifest = _learned(job)
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
    manifest = _learned(job)
    if isinstance(job.start, EncoderConfig) and worker.rank == 0:
        _keep_untrained(job, manifest)
    partners = _partners(job, manifest)
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
        return features_supply(samples, worker, _start_encoder(config, job.start), kept=kept)
    views = partial(
        make_views, policy=config.policy, seed=config.seed, device=worker.device, compiled=config.compile_views
    )
    return images_supply(samples, worker, views, partners=partners, quarantine=job.out / QUARANTINE_NAME)


def _learned(job: TrainJob) -> ShardManifest:
    return source(job.manifest, training_data(job.config, job.data, job.manifest))


def _partners(job: TrainJob, manifest: ShardManifest) -> Partners | None:
    return None if job.pairs is None else Partners.load(job.pairs, manifest)


def _ledger(folder: Path, worker: Worker, manifest_hash: str, num_samples: int, step: int) -> Ledger:
    """This rank's side of the ledger."""
    ledger = Ledger(folder, rank=worker.rank, attempt=worker.attempt)
    ledger.begin(step=step, world_size=worker.world_size, manifest_hash=manifest_hash, num_samples=num_samples)
    return ledger


def _keep_untrained(job: TrainJob, manifest: ShardManifest) -> None:
    """Write encoder and head as they are before the first step: what the trained ones are held against."""
    encoder, folder = _start_encoder(job.config, job.start), job.out / "untrained"
    method = _build_method(job.config, manifest, encoder, None, paired=job.pairs is not None)
    identity = save_encoder(encoder, folder, lineage={"seed": job.config.seed})
    keep_head(method, method.state_dict(), folder, identity)


def _start_encoder(config: TrainConfig, start: EncoderConfig | Path) -> Encoder:
    """With what `config.train` says to learn. New weights are a function of `config.seed`, the same on every rank."""
    torch.manual_seed(key64("weights", config.seed))
    encoder = load_encoder(start) if isinstance(start, Path) else Encoder(start)
    set_trainable(encoder, config.train)
    return encoder


def _start_head(start: EncoderConfig | Path, encoder: Encoder) -> SubspaceHead | None:
    """The head of subspaces that was kept with the encoder to go on from."""
    head = load_head(start, encoder_id=encoder.id) if isinstance(start, Path) else None
    return head if isinstance(head, SubspaceHead) else None


def build_engine(
    config: TrainConfig,
    manifest: ShardManifest,
    start: EncoderConfig | Path,
    device: torch.device,
    *,
    paired: bool = False,
) -> tuple[AbstractEngine, Method]:
    """The engine that trains `config.method` from `start`, and the method inside it; `paired`: on mined pairs."""
    encoder = _start_encoder(config, start)
    method = _build_method(config, manifest, encoder, _start_head(start, encoder), paired=paired)
    if config.engine == "deepspeed":
        engine = DeepSpeedEngine(method, config.optim, config.deepspeed, num_steps=config.steps, device=device)
        return engine, method
    return LocalEngine(method, config.optim, num_steps=config.steps, device=device), method


def _build_method(
    config: TrainConfig, manifest: ShardManifest, encoder: Encoder, head: SubspaceHead | None, *, paired: bool
) -> Method:
    num_images = 2 if paired else config.stream.images_per_sample
    task = Task(
        param_names=view_param_names(config.policy, num_images=num_images, num_latents=manifest.num_latents),
        num_labels=len(manifest.labels),
        # The domains that are there: those held out stay in the vocabulary.
        num_domains=int((manifest.samples.present("domain") >= 0).sum()),
        relative_names=relative_names(param_names(config.policy)),
        num_views=max(2, num_images) if config.policy.transforms() else num_images,
        batch_size=config.stream.batch_size,
        seed=config.seed,
        head=head,
        paired=paired,
    )
    return METHODS[config.method.name].build(config.method, encoder, task)


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
