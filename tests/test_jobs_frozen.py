"""Training behind a frozen backbone: features from memory in the stream's own order, and the step that is kept."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import write_images
from torch import Tensor

from viewfold.augment import AffineColourPolicy, NonePolicy, make_views
from viewfold.config import parse
from viewfold.errors import InvalidInput
from viewfold.jobs.data import DataConfig
from viewfold.jobs.frozen import FrozenStream, base_features, feature_views, reads_features
from viewfold.jobs.step_selection import SelectionConfig, StepSelection, embed_features, embed_images, selection_sources
from viewfold.jobs.train import check_training
from viewfold.jobs.train_config import TrainConfig, TrainJob, training_data
from viewfold.pipeline.indexer import index_shards
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.stream import stream_batches
from viewfold.pipeline.stream_config import StreamConfig
from viewfold.ssl.checkpoint import Progress
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing, load_encoder, save_encoder
from viewfold.ssl.engine import LocalEngine, OptimConfig
from viewfold.ssl.loop import train
from viewfold.ssl.methods import CCI, CCI_PRESETS, Task
from viewfold.ssl.trainable import TrainableConfig, set_trainable

SIZE = 32
STREAM = StreamConfig(batch_size=12, image_size=SIZE, classes_per_batch=3)
ADAPTER = TrainableConfig(what="adapter", width=8)
OPTIM = OptimConfig(lr=1e-2, weight_decay=0.1)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    shards = write_images(folder / "shards", samples=36, labels=3, domains=3)
    index_shards([str(shard) for shard in shards], folder / "index")
    return folder / "index" / "manifest.json"


@pytest.fixture(scope="module")
def manifest(indexed: Path) -> ShardManifest:
    return ShardManifest.load(indexed)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(backbone="test_resnet", preprocessing=Preprocessing(image_size=SIZE)))
    folder = tmp_path_factory.mktemp("encoder") / "encoder"
    save_encoder(encoder.eval(), folder, lineage={})
    return folder


def engine_of(base: Path) -> LocalEngine:
    encoder = load_encoder(base)
    torch.manual_seed(1)
    set_trainable(encoder, ADAPTER)
    method = CCI.build(CCI_PRESETS["robust"], encoder, Task((), num_labels=3, num_domains=3))
    return LocalEngine(method, OPTIM, num_steps=6)


def after(base: Path, batches: Any, views: Any) -> dict[str, Tensor]:
    engine = engine_of(base)
    train(engine, batches, views, progress=Progress(), steps=6)
    return engine.weights()


def test_features_from_memory_train_what_images_train(manifest: ShardManifest, base: Path, tmp_path: Path) -> None:
    features = base_features(load_encoder(base), manifest, SIZE, kept=tmp_path)
    stream = FrozenStream(manifest, STREAM, features, rank=0, world_size=1, steps=range(6))
    own = after(base, stream, lambda batch: feature_views(batch, "cpu"))
    images = stream_batches(manifest, STREAM, num_steps=6)
    expected = after(base, images, lambda batch: make_views(batch, NonePolicy(), seed=0))
    torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)
    assert stream.state(4) == images.state(4)
    start = load_encoder(base).state_dict()
    assert all(torch.equal(own[f"encoder.{name}"], value) for name, value in start.items())
    assert own["encoder.adapter.up.weight"].abs().max() > 0


def test_every_rank_gets_its_places_of_the_same_order(manifest: ShardManifest) -> None:
    features = torch.arange(len(manifest), dtype=torch.float32)[:, None]
    plain = replace(STREAM, classes_per_batch=0)
    for config in (STREAM, plain):
        images = list(stream_batches(manifest, config, start_step=2, num_steps=3))
        ranks = [FrozenStream(manifest, config, features, rank=r, world_size=2, steps=range(2, 5)) for r in range(2)]
        for expected, first, second in zip(images, *ranks, strict=True):
            assert first.keys + second.keys == expected.keys
            for name in ("rows", "epochs", "label", "domain", "group"):
                assert torch.equal(torch.cat([getattr(first, name), getattr(second, name)]), getattr(expected, name))
            assert torch.equal(first.images[0, :, 0].long(), first.rows)


def test_kept_features_are_found_again_by_their_encoder_and_data_alone(
    manifest: ShardManifest, base: Path, tmp_path: Path
) -> None:
    encoder = load_encoder(base)
    features = base_features(encoder, manifest, SIZE, kept=tmp_path)
    with torch.no_grad():
        next(encoder.backbone.parameters()).zero_()
    assert torch.equal(base_features(encoder, manifest, SIZE, kept=tmp_path), features)
    encoder.id = "another"
    assert not torch.equal(base_features(encoder, manifest, SIZE, kept=tmp_path), features)


def test_what_needs_the_images_at_every_step_reads_them(manifest: ShardManifest) -> None:
    none = NonePolicy()
    assert reads_features(ADAPTER, none, STREAM, manifest, paired=False)
    assert not reads_features(ADAPTER, AffineColourPolicy(), STREAM, manifest, paired=False)
    assert not reads_features(TrainableConfig(), none, STREAM, manifest, paired=False)
    assert not reads_features(ADAPTER, none, STREAM, manifest, paired=True)
    for change in ({"max_bad_share": 0.1}, {"ledger": "folder"}, {"images_per_sample": 2}):
        assert not reads_features(ADAPTER, none, replace(STREAM, **change), manifest, paired=False)


def test_the_earliest_best_step_is_kept_over_a_cut(manifest: ShardManifest, base: Path, tmp_path: Path) -> None:
    learned, asked = (manifest.subset(without_domains=["style-2"]), manifest.subset(domains=["style-2"]))
    encoder = load_encoder(base)
    of = {id(part): base_features(encoder, part, SIZE, kept=None) for part in (learned, asked)}
    embed = embed_features((learned, of[id(learned)]), (asked, of[id(asked)]))
    config = SelectionConfig(domains=("style-2",), every=2, k=3)

    def run(out: Path, checkpoint: Path, cut: bool) -> StepSelection:
        engine = engine_of(base)
        choice = StepSelection(config, engine, embed, out)
        method: Any = engine.method
        choice.begin(method.encoder, None, 0)
        views = lambda batch: feature_views(batch, "cpu")  # noqa: E731
        stream = FrozenStream(learned, STREAM, of[id(learned)], rank=0, world_size=1, steps=range(6))
        progress = Progress()
        train(engine, stream, views, progress=progress, steps=2, hooks=[choice.hook()])
        if cut:
            choice.save(checkpoint)
            with (out / "selection.jsonl").open("a") as file:
                file.write('{"step": 4, "precision3": 2.0}\n{"step"')  # rows of steps that were rolled back
            choice = StepSelection(config, engine, embed, out)
            choice.begin(method.encoder, checkpoint, 2)
        train(engine, stream, views, progress=progress, steps=6, hooks=[choice.hook()])
        return choice

    for name in ("whole", "cut", "checkpoint"):
        (tmp_path / name).mkdir()
    whole, cut = (run(tmp_path / name, tmp_path / "checkpoint", name == "cut") for name in ("whole", "cut"))
    rows = [json.loads(row) for row in (tmp_path / "whole" / "selection.jsonl").read_text().splitlines()]
    assert [json.loads(row) for row in (tmp_path / "cut" / "selection.jsonl").read_text().splitlines()] == rows
    assert [row["step"] for row in rows] == [0, 2, 4, 6]
    values = [row["precision3"] for row in rows]
    assert whole.best is not None
    assert cut.best is not None
    assert whole.best.step == cut.best.step == rows[values.index(max(values))]["step"]
    torch.testing.assert_close(whole.best.weights, cut.best.weights, rtol=0, atol=0)


def test_features_and_images_choose_alike(manifest: ShardManifest, base: Path) -> None:
    learned, asked = (manifest.subset(without_domains=["style-2"]), manifest.subset(domains=["style-2"]))
    encoder = load_encoder(base)
    kept = [(part, base_features(encoder, part, SIZE, kept=None)) for part in (learned, asked)]
    by_images = embed_images(learned, asked, image_size=SIZE, device=torch.device("cpu"))(encoder)
    for own, expected in zip(embed_features(kept[0], kept[1])(encoder), by_images, strict=True):
        torch.testing.assert_close(own.features, expected.features)
        assert torch.equal(own.label, expected.label)
        assert torch.equal(own.group, expected.group)


def test_a_domain_to_choose_by_is_one_of_the_sources(manifest: ShardManifest) -> None:
    data = DataConfig(shards=("unused",), without_domains=("style-0",))
    sources = selection_sources(data, SelectionConfig(domains=("style-1",)), manifest)
    assert sources.train.without_domains == ("style-0", "style-1")
    assert (sources.queries.domains, sources.queries.without_domains) == (("style-1",), ("style-0",))
    with pytest.raises(InvalidInput, match=r"unknown domain of select 'stile-1' \(did you mean 'style-1'\?\)"):
        selection_sources(data, SelectionConfig(domains=("stile-1",)), manifest)
    with pytest.raises(InvalidInput, match="held out of this run"):
        selection_sources(data, SelectionConfig(domains=("style-0",)), manifest)
    alone = replace(data, without_domains=("style-0", "style-2"))
    with pytest.raises(InvalidInput, match="all there is to learn from"):
        selection_sources(alone, SelectionConfig(domains=("style-1",)), manifest)


def config_of(**settings: Any) -> TrainConfig:
    plain = {"method": "cci-robust", "stream": {"batch_size": 12, "image_size": SIZE, "classes_per_batch": 3}}
    return parse(TrainConfig, {**plain, "engine": "plain", "workers": 1, "steps": 6, **settings})


def test_presets_are_chosen_by_name() -> None:
    assert config_of().method == CCI_PRESETS["robust"]
    assert config_of(method={"name": "cci-robust", "tau": 0.2}).method == replace(CCI_PRESETS["robust"], tau=0.2)
    assert config_of(method="cci-hcvp").method == CCI_PRESETS["hcvp"]
    with pytest.raises(InvalidInput, match="did you mean 'cci-robust'"):
        config_of(method="cci-robus")


def test_what_cannot_be_trained_is_refused_first(indexed: Path, base: Path, tmp_path: Path) -> None:
    start = load_encoder(base).config

    def check(begin: EncoderConfig | Path, **settings: Any) -> None:
        data = DataConfig(shards=("unused",))
        check_training(TrainJob(config_of(**settings), indexed, data, begin, tmp_path / "out"))

    check(base, train={"what": "adapter"}, features=str(tmp_path / "features"))
    with pytest.raises(InvalidInput, match="would stay random"):
        check(start, train={"what": "adapter"})
    with pytest.raises(InvalidInput, match="reads its images at every step"):
        check(base, train={"what": "head"}, features="somewhere", policy="affine-colour")
    with pytest.raises(InvalidInput, match="has no effect where full learns"):
        check(base, features="somewhere")
    with pytest.raises(InvalidInput, match="unknown domain of select"):
        check(base, select={"domains": ["style-9"]})


@pytest.mark.heavy
@pytest.mark.parametrize("engine", ["plain", "deepspeed"])
def test_a_training_exports_the_adapted_encoder_of_the_best_step(
    indexed: Path, base: Path, tmp_path: Path, engine: str
) -> None:
    from viewfold.jobs.registry import Registry
    from viewfold.jobs.train import train_encoder
    from viewfold.pipeline.executor import ray_session

    config = config_of(
        engine=engine,
        workers=2,
        train={"what": "adapter", "width": 8},
        select={"domains": ["style-2"], "every": 2, "k": 3},
        features=str(tmp_path / "features"),
    )
    data, where = DataConfig(shards=("unused",)), indexed
    with ray_session():
        facts = train_encoder(
            TrainJob(config, where, data, base, tmp_path / "out"),
            what="adapt",
            registry=Registry(tmp_path),
            run_name="r",
        )
    encoder = load_encoder(tmp_path / "out" / "encoder")
    assert facts["encoder_id"] == encoder.id
    assert encoder.config.adapter is not None
    rows = [json.loads(row) for row in (tmp_path / "out" / "selection.jsonl").read_text().splitlines()]
    best = max(rows, key=lambda row: (row["precision3"], -row["step"]))
    assert facts["selected"] == {"domains": ["style-2"], "step": best["step"], "precision3": best["precision3"]}
    learned = training_data(config, data, where)
    assert learned.without_domains == ("style-2",)
    assert facts["num_samples"] == 24
    backbone = load_encoder(base).state_dict()
    assert all(torch.equal(encoder.state_dict()[name], value) for name, value in backbone.items())
