"""The verbs of `viewfold index`, on the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from pools import pool
from typer.testing import CliRunner

from viewfold.cli_index import index_app, wire_stage
from viewfold.errors import InvalidInput
from viewfold.jobs.index_verbs import build, remove
from viewfold.retrieval import FeatureSet, IndexBundle

STAGES: list[tuple[str, list[str] | None, Path | None]] = []


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    wire_stage(lambda name, overrides, out: STAGES.append((name, overrides, out)))
    app = typer.Typer()
    app.add_typer(index_app, name="index")
    app.command("other")(lambda: None)
    return app


def features(first: int, last: int) -> FeatureSet:
    return pool(np.random.default_rng(0).normal(size=(120, 6)).astype(np.float32)).take(range(first, last))


def test_a_bundle_is_built_changed_and_shown_by_its_verbs(app: typer.Typer, tmp_path: Path) -> None:
    def call(*words: object) -> str:
        done = CliRunner().invoke(app, ["index", *map(str, words)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    features(0, 100).save(tmp_path / "old")
    features(100, 120).save(tmp_path / "new")
    (tmp_path / "keys").write_text("0001\n0002\n")
    assert "100 images (build), Flat" in call("build", tmp_path / "old", tmp_path / "b", "--memory-cap", "4GiB")
    assert "precision_at_1" in call("score", tmp_path / "b", tmp_path / "new")
    assert "120 images (add 20)" in call("add", tmp_path / "b", tmp_path / "new")
    assert "117 images (remove 3)" in call("remove", tmp_path / "b", "0000", "--keys-file", tmp_path / "keys")
    assert json.loads(call("inspect", tmp_path / "b", "--json"))["images"] == 117
    assert "117, and 3 removed" in call("inspect", tmp_path / "b")
    assert "117 images (compact), HNSW8" in call("compact", tmp_path / "b", "--factory", "HNSW8")
    assert "117 embeddings" in call("export-embeddings", tmp_path / "b", tmp_path / "out")
    assert "117 images, encoder c" in call("import-embeddings", tmp_path / "out", tmp_path / "in", "--encoder-id", "c")
    assert IndexBundle.open(tmp_path / "b").info.n == 117


def test_images_without_a_label_are_left_out_and_counted_unless_none_has_one(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    labels = [None if row % 3 else "l" for row in range(30)]
    half, base = pool(vectors, label=labels), pool(vectors, encoder_id="b")
    half.save(tmp_path / "half")
    base.save(tmp_path / "base")
    pool(vectors, label=[None] * 30).save(tmp_path / "bare")
    settings = {"factory": "Flat", "recall_target": 0.95, "memory_cap": "", "ray": False}
    line = build(tmp_path / "half", tmp_path / "b", base=tmp_path / "base", **settings)  # type: ignore[arg-type]
    assert "10 images (build)" in line
    assert "20 images without a label were left out" in line
    np.testing.assert_array_equal(
        IndexBundle.open(tmp_path / "b").base_vectors(), IndexBundle.open(tmp_path / "b").exact().take(np.arange(10))
    )
    line = build(tmp_path / "bare", tmp_path / "search", base=None, **settings)  # type: ignore[arg-type]
    assert "30 images (build)" in line
    assert "no image has a label" in line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["emoji"], ("emoji", None, None)),
        (["emoji", "index.factory=HNSW8"], ("emoji", ["index.factory=HNSW8"], None)),
        (["-o", "runs/x", "a.yaml"], ("a.yaml", None, Path("runs/x"))),
        (["recipe", "build"], ("build", None, None)),
    ],
)
def test_a_first_word_that_is_no_verb_is_a_recipe(
    words: list[str], expected: tuple[str, list[str], Path], app: typer.Typer
) -> None:
    STAGES.clear()
    done = CliRunner().invoke(app, ["index", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    name, overrides, out = STAGES[0]
    assert (name, overrides or None, out) == expected


def test_help_names_both_ways(app: typer.Typer) -> None:
    text = CliRunner().invoke(app, ["index", "--help"]).output
    assert "RECIPE" in text
    assert "inspect" in text


def test_nothing_to_remove_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="name the keys to remove"):
        remove(tmp_path, [], keys_file=None)


@pytest.mark.heavy
def test_ray_tasks_fill_the_shards_of_the_same_bundle(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(900, 6)).astype(np.float32)
    pool(vectors).save(tmp_path / "features")
    for name, ray in (("ray", True), ("here", False)):
        settings = {"factory": "IVF8,Flat", "recall_target": 0.95, "memory_cap": "", "base": None}
        build(tmp_path / "features", tmp_path / name, **settings, ray=ray)  # type: ignore[arg-type]
    ids = [IndexBundle.open(tmp_path / name).info.id for name in ("ray", "here")]
    assert ids[0] == ids[1]
