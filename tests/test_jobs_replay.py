"""A view is made again to the bit: what the training loop was handed is what `viewfold replay` writes."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import accepted, refused
from tiny import write_images, write_objects

from viewfold.augment.field_warp import FieldWarp, FieldWarpConfig
from viewfold.augment.multiview import make_views
from viewfold.augment.policies import AffineHaarPolicy, AffinePolicy, NonePolicy, PolicyConfig
from viewfold.augment.transform import Transform
from viewfold.augment.view import render
from viewfold.config import fingerprint
from viewfold.errors import InvalidInput, ShardError
from viewfold.jobs.data import DataConfig, source
from viewfold.jobs.recipes import find
from viewfold.jobs.replay import Trained, find_row, grouped_draws, open_training, replay, replay_view
from viewfold.jobs.run import identity, run_recipe
from viewfold.jobs.run_config import RunConfig
from viewfold.jobs.stages import STAGES
from viewfold.jobs.train_build import build_engine
from viewfold.jobs.train_config import TrainConfig
from viewfold.pipeline.indexer import index_shards
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.stage import code_version, run_stage
from viewfold.pipeline.stream import position_of, sample_batch, stream_batches
from viewfold.pipeline.stream_config import StreamConfig
from viewfold.ssl.checkpoint import Progress
from viewfold.ssl.encoder import EncoderConfig, Preprocessing
from viewfold.ssl.loop import train
from viewfold.ssl.methods import SIEConfig
from viewfold.values import Batch, Views

SIZE = 16
ENCODER = EncoderConfig(equivariant_dim=64, preprocessing=Preprocessing(image_size=SIZE))
Seen = list[tuple[int, Batch, Views]]


@dataclass(frozen=True, kw_only=True)
class WarpedPolicy(PolicyConfig):
    """A warp alone, which draws fields and can fold."""

    name: str = "warped"

    def transforms(self) -> tuple[Transform, ...]:
        return (FieldWarp(FieldWarpConfig(rotation_sd=0.3, shear_sd=0.3)),)


def config_for(policy: PolicyConfig, *, pair: bool, workers: int = 1) -> TrainConfig:
    return TrainConfig(
        method=SIEConfig(transformation="rotation" if pair else "drawn", expander_widths=(32, 16)),
        policy=policy,
        stream=StreamConfig(batch_size=4, image_size=SIZE, images_per_sample=1 + pair, seed=5),
        engine="plain",
        workers=workers,
        steps=5,
        seed=3,
    )


def trained_on(config: TrainConfig, manifest: ShardManifest) -> Trained:
    return Trained(config, DataConfig(shards=("unused",)), manifest, manifest)


def train_and_watch(trained: Trained, *, rank: int = 0) -> Seen:
    """Train on one rank's share of the batches; each step with what it learned from."""
    config = trained.config
    seen: Seen = []

    def views_of(batch: Batch) -> Views:
        views = make_views(batch, config.policy, seed=config.seed)
        seen.append((len(seen), batch, views))
        return views

    engine, _ = build_engine(config, trained.manifest, ENCODER, torch.device("cpu"))
    batches = stream_batches(
        trained.manifest, config.stream, rank=rank, world_size=config.workers, num_steps=config.steps
    )
    train(engine, batches, views_of, progress=Progress(), steps=config.steps)
    return seen


@pytest.fixture
def objects(tmp_path: Path) -> ShardManifest:
    """Twelve objects of four poses."""
    return index_shards(write_objects(tmp_path / "objects"), tmp_path / "objects")


@pytest.fixture
def images(tmp_path: Path) -> ShardManifest:
    """Twelve images."""
    return index_shards(write_images(tmp_path / "images", samples=12), tmp_path / "images")


@pytest.mark.parametrize("policy", [AffineHaarPolicy(), NonePolicy()], ids=lambda policy: policy.name)
@pytest.mark.parametrize("workers", [1, 2])
def test_every_view_of_a_pair_that_was_trained_on_is_made_again(
    policy: PolicyConfig, workers: int, objects: ShardManifest
) -> None:
    trained = trained_on(config_for(policy, pair=True, workers=workers), objects)
    for rank in range(workers):
        seen = train_and_watch(trained, rank=rank)
        assert int(seen[-1][1].epochs.max()) == 1
        assert_made_again(trained, seen)


@pytest.mark.parametrize("policy", [AffinePolicy(), WarpedPolicy()], ids=lambda policy: policy.name)
def test_every_view_of_an_image_that_was_trained_on_is_made_again(policy: PolicyConfig, images: ShardManifest) -> None:
    trained = trained_on(config_for(policy, pair=False), images)
    assert_made_again(trained, train_and_watch(trained))


def assert_made_again(trained: Trained, seen: Seen) -> None:
    """Each view of each sample of each step, with its parameters and stored image, from its key alone."""
    for step, batch, views in seen:
        for place, key in enumerate(batch.keys):
            for view in range(len(views.images)):
                row, epoch = find_row(trained, key), int(batch.epochs[place])
                again = replay_view(trained, row=row, epoch=epoch, view=view)
                assert torch.equal(again.pixels, views.images[view, place])
                assert views.params is not None
                assert list(again.facts["params"]) == list(views.names)
                assert torch.equal(torch.tensor(list(again.facts["params"].values())), views.params[view, place])
                assert again.facts["member"] == batch.members[view % len(batch.members), place]
                assert again.facts["step"] == step


@pytest.mark.parametrize("policy", [AffineHaarPolicy(), WarpedPolicy()], ids=lambda policy: policy.name)
def test_the_numbers_of_the_json_are_enough_to_render_the_view(policy: PolicyConfig, images: ShardManifest) -> None:
    trained = trained_on(config_for(policy, pair=False), images)
    again = replay_view(trained, row=4, epoch=1, view=1)
    written = json.loads(json.dumps(again.facts["draws"]))
    numbers = [value for family in written for value in leaves({k: v for k, v in family.items() if k != "family"})]
    stored = sample_batch(images, trained.config.stream, 4, 1).images[0].float() / 255
    torch.testing.assert_close(render(policy, stored, torch.tensor([numbers]))[0], again.pixels, rtol=0, atol=1e-5)


def leaves(tree: Any) -> list[float]:
    """The numbers of nested dictionaries in their order."""
    return [n for value in tree.values() for n in leaves(value)] if isinstance(tree, dict) else [tree]


def test_draws_are_grouped_by_family_and_field() -> None:
    policy = WarpedPolicy()
    (family,) = policy.transforms()
    (grouped,) = grouped_draws(policy, torch.arange(len(family.names)).float())
    assert grouped["family"] == "FieldWarp"
    assert grouped["translate_x_ratio"]["global"] == 0
    assert list(grouped)[1:4] == ["translate_x_ratio", "translate_y_ratio", "rotation_rad"]
    assert len(leaves(grouped)) == len(family.names) + 1


@pytest.mark.parametrize("tail", ["carry", "drop"])
def test_the_position_of_a_sample_is_where_the_stream_has_it(tail: Any, images: ShardManifest) -> None:
    config = StreamConfig(batch_size=5, image_size=8, tail=tail)
    found: dict[tuple[int, int], tuple[int, int]] = {}
    for step, batch in enumerate(stream_batches(images, config, num_steps=7)):
        for place, sample in enumerate(zip(batch.rows.tolist(), batch.epochs.tolist(), strict=True)):
            found[sample] = step, place
    for epoch in range(2):
        positions = {row: position_of(images, config, row, epoch) for row in range(len(images))}
        assert positions == {row: found.get((row, epoch)) for row in range(len(images))}
        assert (None in positions.values()) == (tail == "drop")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Seen]:
    """A run whose training is finished, and what it saw; `style-1` is held out."""
    folder = tmp_path_factory.mktemp("runs")
    write_images(folder / "shards", samples=24)
    return finished_run(folder / "run", run_config(folder / "shards"))


@pytest.fixture
def run(finished: tuple[Path, Seen], tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


def run_config(shards: Path, *overrides: str) -> RunConfig:
    left_out = [f"{stage}=null" for stage in ("adapt", "evaluate", "embed", "index", "register_as", "compare")]
    size = [f"{where}.image_size={SIZE}" for where in ("encoder.preprocessing", "pretrain.stream")]
    small = ["pretrain.engine=plain", "pretrain.workers=1", "pretrain.stream.batch_size=4"]
    data = [f"data.shards=[{shards}]", "held_out=[style-1]", "pretrain.policy={name: affine}"]
    return find("smoke", [*left_out, *size, *small, *data, *overrides])


def finished_run(folder: Path, config: RunConfig) -> tuple[Path, Seen]:
    """The stage `pretrain` is made in this process, without Ray."""
    seen: Seen = []
    pretrain = config.pretrain
    assert pretrain is not None
    records = run_recipe(config, folder, until="data")
    manifest = source(folder / "data", DataConfig(shards=config.data.shards, without_domains=config.held_out))

    def make(part: Path) -> dict[str, Any]:
        seen.extend(train_and_watch(trained_on(pretrain, manifest)))
        return {"manifest_hash": manifest.hash}

    run_stage(
        folder / "pretrain",
        name="pretrain",
        config=STAGES["pretrain"].settings(config),
        inputs={"data": identity("data", records["data"])},
        make=make,
        code_version=code_version(),
    )
    return folder, seen


def typed(run: Path, key: str, out: Path, *more: str) -> list[str]:
    return ["replay", "--key", key, "--epoch", "0", "--view", "1", str(run), "--out", str(out), *more]


def test_the_picture_is_what_the_run_learned_from(
    finished: tuple[Path, Seen], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, seen = finished
    _, batch, views = seen[1]
    out = tmp_path / "view.png"
    printed = accepted(capsys, *typed(folder, batch.keys[2].partition("/")[2], out))
    assert printed.splitlines() == [f"{out}   parameters: {out.with_suffix('.json')}"]
    with Image.open(out) as picture:
        pixels = np.asarray(picture)
    assert np.array_equal(pixels, (views.images[1, 2] * 255).round().byte().permute(1, 2, 0).numpy())
    facts = json.loads(out.with_suffix(".json").read_text())
    assert (facts["key"], facts["epoch"], facts["view"], facts["step"]) == (batch.keys[2], 0, 1, 1)
    assert facts["policy"]["name"] == "affine"
    assert (
        facts["manifest_hash"]
        == json.loads((folder / "pretrain" / "stage.json").read_text())["result"]["manifest_hash"]
    )
    assert "fold_fraction" not in facts


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--view", "2"], "view must lie in 0..1"),
        (["--view", "-1"], "view must lie in 0..1"),
        (["--epoch", "-1"], "epoch must lie in 0.."),
        (["--epoch", str(10**30)], "epoch must lie in 0.."),
        (["--key", "img-002"], "did you mean 'img-002"),
        (["--key", "images-000000/img-0003"], "its domain 'style-1' is left out"),
        (["--key", "zebra"], "keys look like 'images-000000/img-0000'"),
        (["--stage", "adapt"], "has no stage 'adapt'"),
        (["--stage", "evaluate"], "unknown stage 'evaluate'"),
        (["--out", "nowhere/view.png"], "nowhere: no such folder"),
        (["--out", "view.jpg"], "ends in .png"),
    ],
)
def test_what_cannot_be_replayed_is_one_line_and_writes_nothing(
    arguments: list[str],
    says: str,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert says in refused(capsys, *typed(run, "img-0002", Path("view.png")), *arguments)
    assert list(Path().iterdir()) == []


def test_a_key_that_two_shards_have_needs_its_shard(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (shard,) = write_images(tmp_path / name, samples=6)
        shard.rename(tmp_path / f"{name}.tar")
    manifest = index_shards([tmp_path / "a.tar", tmp_path / "b.tar"], tmp_path)
    trained = trained_on(config_for(NonePolicy(), pair=False), manifest)
    with pytest.raises(InvalidInput, match="is in 2 shards; say which: 'a/img-0001', 'b/img-0001'"):
        find_row(trained, "img-0001")
    assert find_row(trained, "b/img-0001") == 7


def test_a_shard_that_changed_since_is_refused(run: Path, tmp_path: Path) -> None:
    manifest = run / "data" / "manifest.json"
    manifest.write_text(re.sub(r'"bytes": \d+', '"bytes": 1', manifest.read_text()))
    with pytest.raises(ShardError, match="bytes where the manifest says 1; index it again"):
        replay(run, key="img-0002", epoch=0, view=0, stage="pretrain", out=tmp_path / "view.png")
    assert not (tmp_path / "view.png").exists()


def test_settings_that_changed_after_the_training_are_refused(run: Path) -> None:
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("log_scale: 0.2", "log_scale: 0.3"))
    with pytest.raises(InvalidInput, match="trained with other settings"):
        open_training(run, "pretrain")


def test_a_training_under_way_can_be_looked_at(run: Path) -> None:
    record = json.loads((run / "pretrain" / "stage.json").read_text())
    (run / "pretrain").rename(run / "pretrain.part")
    (run / "pretrain.part" / "stage.json").unlink()
    (run / "pretrain.part" / "stage.started").write_text(record["fingerprint"])
    assert len(open_training(run, "pretrain").manifest) == 12
    (run / "pretrain.part" / "stage.started").write_text("of other settings")
    with pytest.raises(InvalidInput, match="trained with other settings"):
        open_training(run, "pretrain")


def test_a_training_that_has_not_begun_is_named(run: Path) -> None:
    (run / "pretrain").rename(run / "elsewhere")
    with pytest.raises(InvalidInput, match="pretrain has not begun"):
        open_training(run, "pretrain")


def test_a_folder_around_or_in_a_run_is_answered_with_the_run(run: Path) -> None:
    with pytest.raises(InvalidInput, match=r"not a run folder; did you mean '.*/run'\?"):
        open_training(run.parent, "pretrain")
    with pytest.raises(InvalidInput, match=r"not a run folder; did you mean '.*/run'\?"):
        open_training(run / "pretrain", "pretrain")


def test_other_code_and_epochs_that_never_came_are_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((run / "pretrain" / "stage.json").read_text())
    config = find(str(run / "config.yaml"), [])
    settings = STAGES["pretrain"].settings(config)
    record["fingerprint"] = fingerprint("pretrain", settings, record["inputs"], "0.0+older")
    (run / "pretrain" / "stage.json").write_text(json.dumps({**record, "code_version": "0.0+older"}))
    replay(run, key="img-0002", epoch=9, view=0, stage="pretrain", out=tmp_path / "view.png")
    notes = capsys.readouterr().err
    assert "was trained by viewfold 0.0+older" in notes
    assert "ended before it saw this view" in notes


def test_the_json_of_another_file_is_not_overwritten(run: Path) -> None:
    before = (run / "results.json").read_text()
    with pytest.raises(InvalidInput, match="belongs to no picture"):
        replay(run, key="img-0002", epoch=0, view=0, stage="pretrain", out=run / "results.png")
    assert (run / "results.json").read_text() == before


@pytest.mark.heavy
@pytest.mark.slow
def test_a_view_of_a_run_on_ray_is_that_of_its_stream(tmp_path: Path, ray_local: None) -> None:
    write_images(tmp_path / "shards", samples=24)
    config = run_config(tmp_path / "shards")
    pretrain = config.pretrain
    assert pretrain is not None
    run_recipe(config, tmp_path / "run", until="pretrain")
    manifest = source(tmp_path / "run" / "data", DataConfig(shards=config.data.shards, without_domains=config.held_out))
    for batch in stream_batches(manifest, pretrain.stream, num_steps=pretrain.steps):
        views = make_views(batch, pretrain.policy, seed=pretrain.seed)
        out = tmp_path / "view.png"
        replay(tmp_path / "run", key=batch.keys[0], epoch=int(batch.epochs[0]), view=0, stage="pretrain", out=out)
        with Image.open(out) as picture:
            assert np.array_equal(
                np.asarray(picture), (views.images[0, 0] * 255).round().byte().permute(1, 2, 0).numpy()
            )
