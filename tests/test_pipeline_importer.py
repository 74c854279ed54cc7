"""Importing folders of images: what becomes of names, bytes, labels and bad files."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import encode

from viewfold.errors import InvalidInput
from viewfold.pipeline.images import read_images
from viewfold.pipeline.importer import import_folder
from viewfold.pipeline.manifest import ShardManifest

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, kind in {
        "cat/a.1.jpg": "JPEG",
        "cat/a-1.png": "PNG",
        "dog/deep/b.bmp": "BMP",
        "dog/c.webp": "WEBP",
    }.items():
        path = tmp_path / "raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(PICTURE, kind))
    (tmp_path / "raw" / "notes.txt").write_text("not an image")
    return tmp_path / "raw"


def sources(manifest: ShardManifest) -> list[str]:
    found = []
    with manifest.reader() as reader:
        for row in range(len(manifest)):
            about = manifest.samples.about(row)
            assert about is not None
            found.append(json.loads(reader.read(manifest.shard(row), about))["source"])
    return found


def test_folders_become_labels_and_bytes_are_kept(folder: Path, tmp_path: Path) -> None:
    manifest = import_folder(folder, tmp_path / "out")
    names = sources(manifest)
    assert names == ["cat/a-1.png", "cat/a.1.jpg", "dog/c.webp", "dog/deep/b.bmp"]
    assert [manifest.labels[label] for label in manifest.label] == ["cat", "cat", "dog", "dog"]
    (batch,) = read_images(manifest, range(4), image_size=16, batch_size=9)
    for name, data in list(zip(names, batch.data, strict=True))[:3]:
        assert data == (folder / name).read_bytes()
    assert batch.data[3].startswith(b"\x89PNG")
    np.testing.assert_array_equal(batch.images[3], np.asarray(PICTURE).transpose(2, 0, 1))


def test_keys_come_from_paths_and_stay_apart(folder: Path, tmp_path: Path) -> None:
    manifest = import_folder(folder, tmp_path / "out")
    keys = [manifest.key(row) for row in range(4)]
    assert keys == [f"images-000000/{key}" for key in ("cat/a-1", "cat/a-1-2", "dog/c", "dog/deep/b")]


def test_the_same_folder_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    shards = [import_folder(folder, tmp_path / out, shard_bytes=600) for out in ("one", "two")]
    assert shards[0].hash == shards[1].hash
    assert len(shards[0].shards) > 1
    for one, two in zip(shards[0].shards, shards[1].shards, strict=True):
        assert Path(one.location).read_bytes() == Path(two.location).read_bytes()


def test_a_csv_names_images_labels_domains_and_groups(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("\ufefffile,label,domain,patient\ncat/a.1.jpg,x,d1,p1\ndog/c.webp,y,,p2\n", encoding="utf-8")
    manifest = import_folder(folder, tmp_path / "out", csv=table, columns={"image": "file", "group": "patient"})
    assert sources(manifest) == ["cat/a.1.jpg", "dog/c.webp"]
    assert (manifest.labels, manifest.domains, manifest.groups) == (("x", "y"), ("d1",), ("p1", "p2"))
    assert manifest.domain.tolist() == [0, -1]


@pytest.mark.parametrize(
    ("text", "columns", "reason"),
    [
        ("file\na.jpg\n", {}, "no column 'image' for image; there are file"),
        ("image\na.jpg\n", {"label": "kind"}, "no column 'kind' for label"),
        ("image\na.jpg\n", {"lable": "kind"}, "'lable' is not read from a CSV; known: image, label, domain, group"),
        ("image,label\n,cat\n", {}, "line 2 names no image"),
        ("image\n", {}, "no image to import"),
        ("image\nnone.jpg\n", {}, "^none.jpg: No such file or directory .1 of 1 images"),
    ],
)
def test_a_csv_that_does_not_fit_is_refused(
    folder: Path, tmp_path: Path, text: str, columns: dict[str, str], reason: str
) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(InvalidInput, match=reason):
        import_folder(folder, tmp_path / "out", csv=tmp_path / "table.csv", columns=columns)
    assert not (tmp_path / "out").exists()


def test_bad_images_are_refused_by_name_or_left_out_and_listed(folder: Path, tmp_path: Path) -> None:
    (folder / "cat" / "bad.jpg").write_bytes(encode(PICTURE, "JPEG")[:-100])
    (folder / "cat" / "worse.png").write_bytes(b"")
    with pytest.raises(InvalidInput, match=r"^cat/bad\.jpg: the JPEG is cut short.*\(2 of 6 images cannot be read"):
        import_folder(folder, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]
    manifest = import_folder(folder, tmp_path / "out", skip_bad=True)
    assert len(manifest) == 4
    skipped = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert [line["image"] for line in skipped] == ["cat/bad.jpg", "cat/worse.png"]


def test_nothing_is_written_over_or_made_from_nothing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match="no image to import; files with these endings"):
        import_folder(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(InvalidInput, match="no such folder"):
        import_folder(tmp_path / "none", tmp_path / "out")
    with pytest.raises(InvalidInput, match="exists and is not empty"):
        import_folder(folder, folder)
    with pytest.raises(InvalidInput, match="columns are those of a CSV"):
        import_folder(folder, tmp_path / "out", columns={"image": "file"})
    (folder / "cat" / "only.jpg").write_bytes(b"x")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "only.jpg").write_bytes(b"x")
    with pytest.raises(InvalidInput, match="none of 1 images"):
        import_folder(tmp_path / "bad", tmp_path / "out", skip_bad=True)


def test_an_empty_folder_may_be_filled(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert len(import_folder(folder, tmp_path / "out")) == 4
