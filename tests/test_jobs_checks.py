"""What cannot be trained is refused in one line before any worker is started, and leaves no stage behind."""

import tarfile
from pathlib import Path

import pytest
from tiny import break_image, write_images, write_objects

from viewfold.config import load, override
from viewfold.errors import InvalidInput
from viewfold.jobs.data import DataConfig, locate, source
from viewfold.jobs.recipes import find
from viewfold.jobs.run import run_recipe
from viewfold.jobs.run_config import RunConfig
from viewfold.jobs.train import check_training
from viewfold.jobs.train_config import TrainJob
from viewfold.pipeline.indexer import index_shards


def recipe(shards: Path, *overrides: str) -> RunConfig:
    """The smoke recipe over these shards, with small batches and nothing held out."""
    plain = [f"data.shards=[{shards}]", "held_out=[]", "evaluate=null", "compare=null"]
    return find("smoke", [*plain, "pretrain.stream.batch_size=8", "adapt.stream={batch_size: 8}", *overrides])


def refused(config: RunConfig, out: Path, *, until: str = "pretrain") -> str:
    with pytest.raises(InvalidInput) as caught:
        run_recipe(config, out, until=until)
    assert "\n" not in str(caught.value)
    assert not (out / until).exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("pretrain.stream.batch_size=9", "batch_size=9 does not divide over 2 ranks; use 8 or 10"),
        ("pretrain.stream.batch_size=64", "batch_size=64 is more than the 24 samples"),
        ("pretrain.stream.images_per_sample=2", "needs as many stored images of each sample"),
        ("encoder.equivariant_dim=0", "its equivariant part is empty"),
        ("encoder.equivariant_dim=500", "more than the 256 features"),
        ("encoder.backbone=resnet-smal", "did you mean"),
        ("pretrain.method.transformation=rotation", "latent"),
        ("pretrain.policy={name: none}", "nothing is drawn that tells the two views apart"),
        ("held_out=[mars]", "unknown domain 'mars'"),
        ("encoder.preprocessing.image_size=32", "stream.image_size=64, but the encoder takes 32 px images"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_any_worker(override: str, says: str, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    write_images(shards, samples=24)
    assert says in refused(recipe(shards, override), tmp_path / "run")


def test_a_broken_image_is_named_with_its_shard_and_key(tmp_path: Path) -> None:
    (shard, *_) = write_objects(tmp_path / "shards", objects=4, views=2)
    break_image(shard, "obj-0001.01.jpg")
    line = refused(recipe(tmp_path / "shards"), tmp_path / "run", until="data")
    assert shard.stem in line
    assert "obj-0001" in line


def test_shards_without_labels_are_refused_where_labels_are_needed(tmp_path: Path) -> None:
    (shard,) = write_images(tmp_path / "labelled", samples=10)
    bare = tmp_path / "bare" / "bare.tar"
    bare.parent.mkdir()
    with tarfile.open(shard) as tar, tarfile.open(bare, "w") as out:
        for member in tar:
            if not member.name.endswith(".json"):
                out.addfile(member, tar.extractfile(member))
    index_shards([bare], bare.parent)
    with pytest.raises(InvalidInput, match="none of the 10 samples has a label, and labels are needed here; record"):
        source(bare.parent, DataConfig(shards=(str(bare),), labelled=True))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["index=null"], "compare needs index"),
        (["register_as=it's"], "register_as takes letters"),
        (["compare.k=0"], "k and gallery must be at least 1"),
        (["index.thumbnail_px=0"], "thumbnail_px must be at least 8"),
        (["embed=null"], "index needs embed"),
        (["held_out=[]", "compare=null"], "evaluate needs other data"),
        (["held_out=[]", "evaluate=null"], "compare asks with the images of `held_out`"),
    ],
)
def test_a_run_whose_stages_need_what_it_leaves_out_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        find("smoke", overrides)


def test_a_domain_that_is_held_out_does_not_count_as_another_domain(tmp_path: Path) -> None:
    shards = write_images(tmp_path / "shards", samples=24, domains=2)
    index_shards(shards, tmp_path / "shards")
    smoke = find("smoke", ["adapt.stream={batch_size: 8}"])
    assert smoke.adapt is not None
    assert smoke.encoder is not None
    job = TrainJob(
        smoke.adapt,
        tmp_path / "shards",
        DataConfig(shards=("unused",), without_domains=("style-1",)),
        smoke.encoder,
        tmp_path / "out",
    )
    with pytest.raises(InvalidInput, match="needs two domains or more, the data has 1"):
        check_training(job)


def test_a_policy_that_spoils_its_views_is_warned_of_once_and_not_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index_shards(write_images(tmp_path / "shards", samples=24), tmp_path / "shards")
    smoke = find("smoke", ["pretrain.stream.batch_size=8", "pretrain.policy={name: field-strong}"])
    assert smoke.pretrain is not None
    assert smoke.encoder is not None
    check_training(
        TrainJob(smoke.pretrain, tmp_path / "shards", DataConfig(shards=("unused",)), smoke.encoder, tmp_path / "out")
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: the warp's gradient budget")


def test_a_folder_with_other_things_is_not_taken_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine: true\n")
    with pytest.raises(InvalidInput, match="holds other things than a run"):
        run_recipe(find("smoke", []), tmp_path)
    assert (tmp_path / "config.yaml").read_text() == "mine: true\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml"]


def test_a_file_is_not_taken_for_a_run_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot be a run folder"):
        run_recipe(find("smoke", []), tmp_path / "file")


def test_packs_are_found_in_the_folder_that_the_variable_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = write_images(tmp_path / "things", samples=20)
    monkeypatch.delenv("VIEWFOLD_DATA", raising=False)
    with pytest.raises(
        InvalidInput, match=r"pack:things/images: VIEWFOLD_DATA=\(not set\) has no things/images-\*\.tar"
    ):
        locate(("pack:things/images",))
    monkeypatch.setenv("VIEWFOLD_DATA", str(tmp_path))
    assert locate(("pack:things/images",)) == [str(path) for path in shards]
    with pytest.raises(InvalidInput, match="has no things/other"):
        locate(("pack:things/other",))


def test_views_of_the_wrong_number_are_refused_before_any_worker(tmp_path: Path) -> None:
    shards = tmp_path / "objects"
    write_objects(shards, objects=12, views=4)
    plain = recipe(shards, "adapt=null", "pretrain.policy={name: none}")
    one = ["pretrain.method={name: vicreg}", "pretrain.stream.images_per_sample=1"]
    assert "vicreg compares two views or more, got 1" in refused(override(plain, one), tmp_path / "one")
    three = ["pretrain.method={name: simclr}", "pretrain.stream.images_per_sample=3"]
    assert "simclr compares two views, and there are 3" in refused(override(plain, three), tmp_path / "three")
    drawn = ["pretrain.policy={name: affine}", "pretrain.stream.images_per_sample=3"]
    assert "'drawn' tells two views apart, and there are 3" in refused(override(plain, drawn), tmp_path / "drawn")


def test_a_run_that_is_refused_leaves_the_settings_of_what_is_there(tmp_path: Path) -> None:
    shards, run = tmp_path / "shards", tmp_path / "run"
    write_images(shards, samples=24)
    run_recipe(recipe(shards), run, until="data")
    before = (run / "config.yaml").read_text()
    refused(recipe(shards, "pretrain.stream.batch_size=64", "data.without_domains=[style-1]"), run)
    assert (run / "config.yaml").read_text() == before
    other = recipe(shards, "data.without_domains=[style-1]")
    run_recipe(other, run, until="data")
    assert load(RunConfig, run / "config.yaml") == other
