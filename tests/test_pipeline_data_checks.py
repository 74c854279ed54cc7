"""Counting and drawing a data set."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import write_images, write_objects, write_tar

from viewfold.pipeline.indexer import index_shards
from viewfold.pipeline.stats import contact_sheet, count


def test_counts_are_those_of_the_samples(tmp_path: Path) -> None:
    paths = write_images(tmp_path, samples=20, labels=3, domains=2)
    manifest = index_shards(paths, tmp_path)
    expected = {
        "samples": 20,
        "images": 20,
        "shards": 2,
        "bytes": sum(path.stat().st_size for path in paths),
        "labelled": 20,
        "groups": 10,
        "latents": 0,
        "labels": {"class-0": 8, "class-1": 6, "class-2": 6},
        "domains": {"style-0": 10, "style-1": 10},
    }
    assert count(manifest) == expected
    half = count(manifest.subset(domains=["style-1"]))
    assert (half["samples"], half["domains"]) == (10, {"style-1": 10})


def test_objects_count_their_images_and_those_without_a_label(tmp_path: Path) -> None:
    counts = count(index_shards(write_objects(tmp_path, objects=12, views=4, unlabelled=3), tmp_path))
    assert (counts["samples"], counts["images"], counts["labelled"], counts["latents"]) == (12, 48, 9, 7)
    assert counts["labels"] == {"(none)": 3, "class-0": 3, "class-1": 3, "class-2": 3}
    assert counts["domains"] == {}


@pytest.mark.parametrize("kind", ["images", "objects"])
def test_a_contact_sheet_shows_images_of_every_label(kind: str, tmp_path: Path) -> None:
    paths = write_images(tmp_path) if kind == "images" else write_objects(tmp_path, unlabelled=2)
    manifest = index_shards(paths, tmp_path)
    sheet = np.asarray(Image.open(contact_sheet(manifest, tmp_path / "out" / "sheet.png")))
    rows = 3 + (kind == "objects")
    tiles = sheet[34:, 150:].reshape(rows, -1, sheet.shape[1] - 150, 3)  # header and margin are captions
    assert all((row < 128).any() for row in tiles)
    assert sheet[:34].min() < 50


def test_a_contact_sheet_of_a_broken_set_marks_the_broken_tile(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.jpg", b"no image")])
    sheet = np.asarray(Image.open(contact_sheet(index_shards([path], tmp_path), tmp_path / "sheet.png")))
    assert ((sheet[..., 0] > 200) & (sheet[..., 1] < 50)).any()
