"""The encoders of an in-context evaluation and what they say about every image, each made once and found again."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from viewfold.config import dump, essence, to_yaml
from viewfold.jobs.data import PICKS, DataConfig, index_checked, shard_stamps, source
from viewfold.jobs.embed import embed
from viewfold.jobs.frozen import reads_features
from viewfold.jobs.icl_config import SETTINGS, IclConfig, fold_name
from viewfold.jobs.icl_data import check_evaluation, learned_from, unseen_groups
from viewfold.jobs.registry import Registry
from viewfold.jobs.start import note_if_moved, start_from
from viewfold.jobs.train import check_training, train_encoder
from viewfold.jobs.train_config import TrainConfig, TrainJob, training_data
from viewfold.pipeline.executor import ray_session
from viewfold.pipeline.images import read_images
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.progress import Meter, progress
from viewfold.pipeline.stage import StageRecord, code_version, run_stage, write_whole
from viewfold.retrieval import FeatureSet
from viewfold.ssl.encoder import EncoderConfig, load_encoder


@dataclass(frozen=True)
class FoldFeatures:
    """The feature sets that the selectors of one fold choose by."""

    domains: tuple[str, ...]
    """Held out together."""
    unseen: frozenset[str] | None
    """The groups that nothing learned from, whose images alone ask; None: all ask."""
    base: Path
    pixels: Path
    adapted: Mapping[str, Mapping[int, Path]]
    """Of each adaptation and seed."""


@dataclass(frozen=True)
class Prepared:
    """All that is measured afterwards."""

    manifest: Path
    folds: Mapping[str, FoldFeatures]
    records: Mapping[str, StageRecord]


@dataclass(frozen=True)
class _Work:
    """An evaluation being prepared: its folder, and what is finished in it."""

    config: IclConfig
    out: Path
    home: Path
    resources: ExitStack
    bar: Meter
    records: dict[str, StageRecord] = field(default_factory=dict)

    @property
    def manifest(self) -> Path:
        """Where the manifest of all images lies."""
        return (self.out / "data" / "manifest.json").resolve()

    @cached_property
    def unseen(self) -> frozenset[str] | None:
        """The groups that nothing learns from, once there is a manifest."""
        return unseen_groups(self.config, ShardManifest.load(self.manifest))

    def stage(self, name: str, settings: Any, needs: Mapping[str, str], make: Callable[[Path], dict[str, Any]]) -> str:
        """Make or find the stage `name`; its identity is what a stage that builds on it needs."""
        record = run_stage(
            self.out / name, name=name, config=settings, inputs=needs, make=make, code_version=code_version()
        )
        self.records[name] = record
        self.bar.advance(last=name)
        return record.id

    def start_ray(self) -> None:
        """Have Ray from here to the end: an evaluation that finds all its stages never starts it."""
        self.resources.enter_context(ray_session())


def prepare(config: IclConfig, out: Path, home: Path) -> Prepared:
    """Train and embed all that `config` names, below `out`; what is done is skipped, a training that was cut goes on.

    `home` holds the registry. The base encoder of `config.start` is the same for every fold; one of `config.pretrain`
    is trained for each, and so are all adaptations, never on the fold's own domains or on unseen groups. The settings
    are written once the manifest is there and says that they fit.

    Raises:
        InvalidInput: what `check_evaluation` finds, before any training; and what the stages refuse.
    """
    with _working(config, out, home) as work:
        work.stage(
            "data", dump(config.data), shard_stamps(config.data.shards), lambda part: index_checked(config.data, part)
        )
        check_evaluation(config, work.manifest, work.unseen)
        write_whole(out / SETTINGS, lambda file: file.write(to_yaml(config).encode()))
        shared = _base(work, "base", None) if config.start else None
        folds: dict[str, FoldFeatures] = {}
        for domains in config.folds:
            fold = fold_name(domains)
            base, identity = shared or _base(work, f"{fold}/base", domains)
            features, of_base = _embedded(work, base, identity)
            folds[fold] = FoldFeatures(
                domains=domains,
                unseen=work.unseen,
                base=features,
                pixels=_pixels(work, features, of_base),
                adapted=_adapted(work, fold, domains, base, identity),
            )
    return Prepared(work.manifest, folds, work.records)


@contextmanager
def _working(config: IclConfig, out: Path, home: Path) -> Iterator[_Work]:
    trained = 2 * len(config.folds) * len(config.adaptations) * len(config.seeds)
    total = 2 + trained + 2 * (1 if config.start else len(config.folds))
    with ExitStack() as resources, progress("icl-eval", total=total) as bar:
        yield _Work(config, out, home, resources, bar)


def _base(work: _Work, name: str, domains: tuple[str, ...] | None) -> tuple[str, str]:
    """Name and identity of the stage with the base encoder: a copy of `start`, or trained without `domains`."""
    config = work.config
    if domains is None:
        note_if_moved(config.start, work.home, work.out / name)
        return name, work.stage(name, config.start, {}, partial(start_from, config.start, work.home))
    assert config.pretrain is not None
    assert config.encoder is not None
    data = learned_from(config, domains, work.unseen, labelled=False)
    job = _Training(work, name, config.pretrain, data, config.encoder)
    settings = {"train": essence(config.pretrain), "encoder": dump(config.encoder), "data": _which(data)}
    return name, work.stage(name, settings, _data_identity(work), job)


def _adapted(work: _Work, fold: str, domains: tuple[str, ...], base: str, identity: str) -> dict[str, dict[int, Path]]:
    """The feature set of each adaptation and seed."""
    config, data = work.config, learned_from(work.config, domains, work.unseen, labelled=True)
    found: dict[str, dict[int, Path]] = {}
    for adaptation in config.adaptations:
        for seed in config.seeds:
            name, training = f"{fold}/{adaptation}-{seed}", config.adaptation(adaptation, seed)
            start = (work.out / base / "encoder").resolve()
            job = _Training(work, name, training, data, start)
            settings = {"train": essence(training), "data": _which(data)}
            made = work.stage(name, settings, {**_data_identity(work), "base": identity}, job)
            found.setdefault(adaptation, {})[seed], _ = _embedded(work, name, made, base=base)
    return found


@dataclass(frozen=True)
class _Training:
    """Makes the stage of one training."""

    work: _Work
    name: str
    config: TrainConfig
    data: DataConfig
    start: EncoderConfig | Path

    def __call__(self, part: Path) -> dict[str, Any]:
        work = self.work
        config = with_kept_features(self.config, self.data, work.manifest, work.out / "backbone-features")
        job = TrainJob(config, work.manifest, self.data, self.start, part.resolve())
        check_training(job)
        self.work.start_ray()
        run_name = f"{self.work.out.name}/{self.name}"
        return train_encoder(job, what=self.name, registry=Registry(self.work.home), run_name=run_name)


def with_kept_features(training: TrainConfig, data: DataConfig, manifest: Path, folder: Path) -> TrainConfig:
    """A training that reads features of a frozen backbone keeps them in `folder` for the next one of the same data."""
    learned = source(manifest, training_data(training, data, manifest))
    kept = reads_features(training.train, training.policy, training.stream, learned, paired=False)
    if training.features or not kept:
        return training
    return dataclasses.replace(training, features=str(folder.resolve()))


def _embedded(work: _Work, stage: str, identity: str, base: str | None = None) -> tuple[Path, str]:
    """The feature set of all images by the encoder of `stage`, and the identity of the stage that made it.

    An encoder that is that of the stage `base` with an adapter behind it maps the features that are there already.
    """
    name = f"{stage}-features"
    if name in work.records:
        return work.out / name / "features", work.records[name].id

    def make(part: Path) -> dict[str, Any]:
        if base is not None and _mapped(work.out, base, stage, part / "features"):
            return {"mapped": True}
        work.start_ray()
        return embed({"features": work.out / stage / "encoder"}, work.manifest, work.config.embed, part)

    made = work.stage(name, work.config.embed.part, {**_data_identity(work), "encoder": identity}, make)
    return work.out / name / "features", made


def _mapped(out: Path, base: str, adapted: str, features: Path) -> bool:
    """Write the adapted encoder's features from those of the base; False where more than an adapter is new."""
    before, after = load_encoder(out / base / "encoder"), load_encoder(out / adapted / "encoder")
    given, weights = FeatureSet.load(out / f"{base}-features" / "features"), after.state_dict()
    same = all(name in weights and torch.equal(weights[name], value) for name, value in before.state_dict().items())
    adapter = after.eval().adapter
    if before.adapter is not None or adapter is None or not same or given.dim != before.dim:
        return False
    if before.config.preprocessing != after.config.preprocessing:
        return False
    with torch.no_grad():
        vectors = adapter(torch.tensor(given.vectors)).numpy()
    dataclasses.replace(given, encoder_id=str(after.id), vectors=vectors).save(features)
    return True


def _pixels(work: _Work, like: Path, identity: str) -> Path:
    """The feature set of raw values: the images shrunk to a few pixels, in -1..1; records are those of `like`."""
    side = work.config.pixels
    if "pixels" in work.records:
        return work.out / "pixels" / "features"

    def make(part: Path) -> dict[str, Any]:
        known, manifest = FeatureSet.load(like), ShardManifest.load(work.manifest)
        batches = read_images(manifest, np.arange(len(manifest)), image_size=side, batch_size=512)
        values = torch.cat([batch.images.flatten(1) for batch in batches]).numpy()
        raw = values.astype(np.float32) / 127.5 - 1  # no uint8 is exactly in the middle: every image has a direction
        dataclasses.replace(known, encoder_id=f"pixels-{side}", vectors=raw).save(part / "features")
        return {"side": side}

    work.stage("pixels", side, {**_data_identity(work), "records": identity}, make)
    return work.out / "pixels" / "features"


def _data_identity(work: _Work) -> dict[str, str]:
    return {"data": str(work.records["data"].result["manifest_hash"])}


def _which(data: DataConfig) -> dict[str, Any]:
    """What of `data` says which samples of a manifest are meant, wherever its shards lie."""
    return {name: value for name, value in dump(data).items() if name in PICKS}
