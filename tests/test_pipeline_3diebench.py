"""Importing 3DIEBench: what becomes of the views, latents, order and labels of a tiny tree of its layout."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tiny import draw_latents, encode

from viewfold.cli import main
from viewfold.errors import InvalidInput
from viewfold.pipeline.images import read_images
from viewfold.pipeline.import_3diebench import import_3diebench
from viewfold.pipeline.index_3diebench import IndexedObject, IndexedSplit, differences, read_index, statement
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.stream import stream_batches
from viewfold.pipeline.stream_config import StreamConfig

VIEWS = 4
CLASSES = ("02691156", "02747177", "04554684")
PATHS = {
    "train": ["02747177/f0", "04554684/e9", "02691156/b1", "04554684/a_2", "02691156/a0"],  # in no sorted order
    "val": ["04554684/k7", "02747177/k7", "02691156/w-1"],
}
KEYS = {name: [path.replace("/", "__") for path in paths] for name, paths in PATHS.items()}
LATENTS = {
    name: draw_latents(np.random.default_rng(seed), VIEWS * len(paths), yaw_only=False)
    for seed, (name, paths) in enumerate(PATHS.items())
}
"""`[view of object, latent]`, in the order of the table of all latents."""
REAL = "VIEWFOLD_3DIEBENCH"
"""Environment variable: the folder of the official index files, where they are there."""


def picture(latents: NDArray[np.float64]) -> bytes:
    """A JPEG whose red and green are the floor hue and the spot hue: it tells whose latents it was made with."""
    colour = np.round(255 * np.array([latents[3], latents[6], 0.5])).astype(np.uint8)
    return encode(Image.fromarray(np.broadcast_to(colour, (24, 24, 3)).copy()), "JPEG", quality=95)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The tree as it is published: index files, labels, latents of all views and beside each view."""
    root = tmp_path / "3diebench"
    for name, paths in PATHS.items():
        for number, path in enumerate(paths):
            folder = root / path
            folder.mkdir(parents=True)
            for view, latents in enumerate(LATENTS[name][VIEWS * number : VIEWS * (number + 1)]):
                (folder / f"image_{view}.jpg").write_bytes(picture(latents))
                np.save(folder / f"latent_{view}.npy", latents)
        np.save(root / f"{name}_images.npy", np.array([f"/{path}/" for path in paths]))
        np.save(root / f"{name}_labels.npy", np.array([CLASSES.index(path.split("/")[0]) for path in paths]))
        np.save(root / f"all_latents_{name}.npy", LATENTS[name])
    (root / "LICENSE").write_text("CC-BY-NC")
    return root


def imported(root: Path, out: Path, *, shard_bytes: int = 1 << 20) -> dict[str, ShardManifest]:
    return import_3diebench(root, read_index(root, ("train", "val")), out, shard_bytes=shard_bytes)


def in_json(manifest: ShardManifest, row: int) -> dict[str, object]:
    about = manifest.samples.about(row)
    assert about is not None
    with manifest.reader() as reader:
        fields: dict[str, object] = json.loads(reader.read(manifest.shard(row), about))
    return fields


@pytest.mark.parametrize("shard_bytes", [1, 1 << 20], ids=["a shard an object", "one shard"])
def test_objects_keep_the_official_order_and_labels(root: Path, tmp_path: Path, shard_bytes: int) -> None:
    for name, manifest in imported(root, tmp_path / "out", shard_bytes=shard_bytes).items():
        assert len(manifest.shards) == (len(KEYS[name]) if shard_bytes == 1 else 1)
        assert [manifest.samples.key(row) for row in range(len(manifest))] == KEYS[name]
        assert manifest.key(0) == f"{name}-000000/{KEYS[name][0]}"
        assert manifest.labels == CLASSES
        assert manifest.label.tolist() == np.load(root / f"{name}_labels.npy").tolist()
        assert [manifest.groups[group] for group in manifest.group] == KEYS[name]
        assert {manifest.num_images(row) for row in range(len(manifest))} == {VIEWS}
        assert in_json(manifest, 1)["source"] == f"/{PATHS[name][1]}/"
        sidecar = json.loads((tmp_path / "out" / name / "objects.json").read_text())
        assert (sidecar["keys"], sidecar["labels"]) == (KEYS[name], manifest.label.tolist())
        assert (sidecar["classes"], sidecar["num_views"]) == (list(CLASSES), VIEWS)
        assert sidecar["index"]["sha256"] == hashlib.sha256((root / f"{name}_images.npy").read_bytes()).hexdigest()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3diebench", "out"]


def test_every_view_is_there_byte_for_byte_with_its_latents(root: Path, tmp_path: Path) -> None:
    for name, manifest in imported(root, tmp_path / "out").items():
        (batch,) = read_images(manifest, range(len(manifest)), image_size=24, batch_size=99)
        assert batch.data == [
            (root / path / f"image_{view}.jpg").read_bytes() for path in PATHS[name] for view in range(VIEWS)
        ]
        assert batch.latents is not None
        np.testing.assert_array_equal(batch.latents.numpy(), LATENTS[name].astype(np.float32))
        assert in_json(manifest, 1)["latents"] == LATENTS[name][VIEWS : 2 * VIEWS].tolist()


def test_both_views_of_a_pair_come_with_their_own_latents(root: Path, tmp_path: Path) -> None:
    manifest = imported(root, tmp_path / "out")["train"]
    config = StreamConfig(batch_size=5, image_size=24, images_per_sample=2)
    drawn = set()
    for batch in stream_batches(manifest, config, num_steps=8):
        assert batch.latents is not None
        drawn |= set(map(tuple, batch.members.T.tolist()))
        hues = batch.images[:, :, :2].float().mean(dim=(-1, -2)) / 255
        np.testing.assert_allclose(hues.numpy(), batch.latents[..., [3, 6]].numpy(), atol=0.02)
    assert len(drawn) == VIEWS * (VIEWS - 1)


def test_latents_beside_the_views_serve_as_well_as_the_table(root: Path, tmp_path: Path) -> None:
    both = imported(root, tmp_path / "both")
    for path in root.glob("all_latents_*.npy"):
        path.rename(tmp_path / path.name)
    beside = imported(root, tmp_path / "beside")
    for path in tmp_path.glob("all_latents_*.npy"):
        path.rename(root / path.name)
    for path in root.rglob("latent_*.npy"):
        path.unlink()
    table = imported(root, tmp_path / "table")
    assert [m.hash for m in both.values()] == [m.hash for m in beside.values()] == [m.hash for m in table.values()]


def test_more_than_a_hundred_views_are_numbered_with_three_digits(root: Path, tmp_path: Path) -> None:
    one = root / PATHS["val"][0]
    for view in range(VIEWS, 101):
        shutil.copy(one / "image_0.jpg", one / f"image_{view}.jpg")
        shutil.copy(one / "latent_0.npy", one / f"latent_{view}.npy")
    np.save(root / "val_images.npy", [f"/{PATHS['val'][0]}/"])
    np.save(root / "val_labels.npy", [2])
    (root / "all_latents_val.npy").unlink()
    out = tmp_path / "out"
    manifest = import_3diebench(root, read_index(root, ("val",)), out)["val"]
    (batch,) = read_images(manifest, [0], image_size=8, batch_size=101)
    assert batch.data == [(one / f"image_{view}.jpg").read_bytes() for view in range(101)]
    assert sorted(path.name for path in out.iterdir()) == ["val"]


def resaved(name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[Path], None]:
    """Damage: an array of the tree, changed."""
    return lambda root: np.save(root / name, change(np.load(root / name)))


def written(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(data)


def gone(pattern: str) -> Callable[[Path], None]:
    def remove(root: Path) -> None:
        for path in list(root.glob(pattern)):
            path.unlink()

    return remove


def replaced(array: NDArray[Any], where: Any, value: Any) -> NDArray[Any]:
    array[where] = value
    return array


def only_latents_beside(damage: Callable[[Path], object]) -> Callable[[Path], None]:
    """The damage to a tree without the table of the training views."""

    def both(root: Path) -> None:
        (root / "all_latents_train.npy").unlink()
        damage(root)

    return both


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "index file missing": (gone("val_images.npy"), r"val_images\.npy: no such file; --index names the folder"),
    "index file pickled": (
        resaved("val_images.npy", lambda a: a.astype(object)),
        r"val_images\.npy: not a whole \.npy file of numbers or text",
    ),
    "index file of bytes": (
        resaved("val_images.npy", lambda a: a.astype("S")),
        r"val_images\.npy: holds \|S\d+ of shape \[3\], expected text of shape \[any\]",
    ),
    "empty index file": (resaved("val_images.npy", lambda a: a[:0]), r"shape \[0\], expected text of shape \[any\]"),
    "an entry that leaves the root": (
        resaved("val_images.npy", lambda a: replaced(a, 1, "/../02747177/")),
        r"val_images\.npy: entry 1 is '/\.\./02747177/', expected /<synset of 8 digits>/<object id>/",
    ),
    "an object twice": (
        resaved("val_images.npy", lambda a: replaced(a, 2, "/02691156/a0/")),
        r"02691156/a0 stands twice, as entry 4 of train_images\.npy and as entry 2 of val_images\.npy",
    ),
    "too few labels": (
        resaved("val_labels.npy", lambda a: a[:2]),
        r"val_labels\.npy: holds int64 of shape \[2\], expected integers of shape \[3\]",
    ),
    "labels that are not the ranks": (
        resaved("train_labels.npy", lambda a: replaced(a, 3, 1)),
        r"train_labels\.npy: row 3 is 1, but 04554684/a_2 is of synset 04554684, which is number 2 of the 3 synsets",
    ),
    "an object without folder": (
        lambda root: shutil.rmtree(root / "02691156/b1"),
        r"02691156/b1: no such folder, and \S+train_images\.npy lists it",
    ),
    "a view missing": (gone("02691156/a0/image_2.jpg"), r"02691156/a0/image_2\.jpg: no such file, and 4 views"),
    "a view too many": (
        written("02691156/a0/image_4.jpg", b""),
        r"02691156/a0/image_4\.jpg: one view more than the 4 of 02747177/f0",
    ),
    "no view": (gone("02747177/f0/*.jpg"), r"02747177/f0/image_0\.jpg: no such file"),
    "a view cut short": (
        written("02691156/w-1/image_3.jpg", picture(LATENTS["val"][0])[:-10]),
        r"02691156/w-1/image_3\.jpg: the JPEG is cut short",
    ),
    "a view that is a PNG": (
        written("02691156/w-1/image_3.jpg", encode(Image.new("RGB", (8, 8)), "PNG")),
        r"02691156/w-1/image_3\.jpg: an image, but not a JPEG",
    ),
    "latents of another number of views": (
        resaved("all_latents_val.npy", lambda a: a[:-1]),
        r"all_latents_val\.npy: holds float64 of shape \[11, 7\], expected floating point numbers of shape \[12, 7\]",
    ),
    "latents cut short": (
        lambda root: os.truncate(root / "all_latents_val.npy", 500),
        r"all_latents_val\.npy: not a whole \.npy file",
    ),
    "latents in another order": (
        resaved("all_latents_train.npy", lambda a: a[::-1]),
        r"all_latents_train\.npy: rows 0\.\.3 are not the latents in \S+02747177/f0",
    ),
    "latents that are not finite": (
        resaved("all_latents_train.npy", lambda a: replaced(a, (9, 5), np.nan)),
        r"all_latents_train\.npy: row 9, 02691156/b1: a latent is not a finite number",
    ),
    "own latents missing": (
        only_latents_beside(gone("02691156/b1/latent_3.npy")),
        r"02691156/b1/latent_3\.npy: no such file",
    ),
    "own latents of another width": (
        only_latents_beside(resaved("02691156/b1/latent_3.npy", lambda a: a[:6])),
        r"02691156/b1/latent_3\.npy: holds float64 of shape \[6\], expected floating point numbers of shape \[7\]",
    ),
    "own latents that are not finite": (
        only_latents_beside(resaved("02691156/b1/latent_3.npy", lambda a: a * np.inf)),
        r"02691156/b1/latent_3\.npy: a latent is not a finite number",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_and_nothing_is_left(what: str, root: Path, tmp_path: Path) -> None:
    damage, reason = REFUSED[what]
    damage(root)
    with pytest.raises(InvalidInput, match=reason):
        imported(root, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["3diebench"]


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], list[str]]:
    """Exit code and the lines of both streams."""
    with pytest.raises(SystemExit) as stopped:
        main(["data", "import-3diebench", *arguments])
    said = capsys.readouterr()
    return int(stopped.value.code or 0), said.out.splitlines(), said.err.splitlines()


def test_the_verb_imports_a_split_and_says_that_its_index_is_not_the_official_one(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index, out = tmp_path / "index", tmp_path / "out"
    index.mkdir()
    for path in root.glob("*.npy"):
        path.rename(index / path.name)
    code, (line,), _ = answer(capsys, str(root), "--index", str(index), "--out", str(out), "--split", "val")
    assert code == 0
    assert line.startswith("val: 3 objects of 4 views in 1 shards, manifest ")
    assert "(not the official index: 3 objects instead of 10552, 3 classes instead of 55, a share of 0.33333" in line
    assert sorted(path.name for path in (out / "val").iterdir()) == [
        "manifest.json", "objects.json", "samples.arrow", "val-000000.tar",
    ]  # fmt: skip
    code, lines, _ = answer(capsys, str(root), "--index", str(index), "--out", str(tmp_path / "both"))
    assert (code, [line.split(":")[0] for line in lines]) == (0, ["train", "val"])


def test_the_verb_refuses_with_one_line(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "02691156/w-1/image_1.jpg").write_bytes(b"no picture")
    code, lines, (*progress, error) = answer(capsys, str(root), "--out", str(tmp_path / "out"))
    assert (code, lines, len(progress)) == (2, [], 1)
    assert error.startswith(f"error: {root / '02691156/w-1/image_1.jpg'}: not an image")
    code, _, (error,) = answer(capsys, str(root), "--out", str(root))
    assert (code, error) == (2, f"error: {root}: exists and is not empty; remove it or give another folder")
    code, _, (error,) = answer(capsys, str(root), "--out", str(tmp_path / "out"), "--split", "test")
    assert (code, error) == (2, "error: unknown split 'test'; known: both, train, val")
    code, _, (error,) = answer(capsys, str(tmp_path / "none"), "--out", str(tmp_path / "out"))
    assert (code, error) == (2, f"error: {tmp_path / 'none'}: no such folder")
    assert [path.name for path in tmp_path.iterdir()] == ["3diebench"]


def test_the_official_validation_index_is_known_by_its_digest_and_counts() -> None:
    counts = [1688] + [165] * 8 + [164] * 46  # 10552 objects of 55 classes, the largest with a share of 0.15997
    objects = [IndexedObject("", f"{synset:08}", str(i)) for synset, n in enumerate(counts) for i in range(n)]
    assert len(objects) == 10_552
    split = IndexedSplit("val", Path(), "9a945e83" + "0" * 52 + "2c38", tuple(objects), ())
    assert differences(split) == []
    assert statement(split) == "the official index, by its digest"
    other = IndexedSplit("val", Path(), "9a945e83" + "0" * 56, tuple(objects), ())
    assert differences(other) == ["sha256 9a945e83...0000 instead of 9a945e83...2c38"]
    moved = IndexedSplit("val", Path(), split.sha256, (objects[-1]._replace(synset="00000000"), *objects[:-1]), ())
    assert differences(moved) == ["a share of 0.16006 in the largest class instead of 0.15997"]


def test_the_official_index_files_hold_what_is_published_of_them() -> None:
    if REAL not in os.environ:
        pytest.skip(f"the official index files of 3DIEBench are not here; {REAL} names their folder")
    train, val = read_index(Path(os.environ[REAL]), ("train", "val"))
    assert (len(train.objects), len(val.objects), len(val.classes)) == (41_920, 10_552, 55)
    assert max(np.bincount(val.labels())) / len(val.objects) == pytest.approx(0.15997, abs=5e-6)
    assert statement(train) == "the official index, by its counts"
    assert statement(val) == "the official index, by its digest"
