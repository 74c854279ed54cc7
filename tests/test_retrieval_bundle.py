"""Index bundles: whole, checked, and refused beside what they were not made with."""

import dataclasses
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pools import on_circle, pool

from viewfold.errors import ArtifactMismatch, InvalidInput
from viewfold.retrieval import FeatureSet, IndexBundle, build_bundle, remove_images
from viewfold.retrieval.index.build_records import principal_map
from viewfold.retrieval.index.bundle import read_records


def random_pool(num_rows: int = 60, *, encoder_id: str = "encoder-a", seed: int = 0) -> FeatureSet:
    vectors = np.random.default_rng(seed).normal(size=(num_rows, 6)).astype(np.float32)
    return pool(vectors, encoder_id=encoder_id, group=[f"g{row // 3}" for row in range(num_rows)])


def test_a_bundle_holds_what_it_says(tmp_path: Path) -> None:
    features, base = random_pool(), random_pool(encoder_id="encoder-base", seed=1)
    (tmp_path / "card.html").write_text("<p>card</p>")
    thumbnails = [(f"{row:04d}", bytes([row]) * (row * 40)) for row in (7, 3, 20)]
    bundle = build_bundle(features, tmp_path / "bundle", base=base, thumbnails=thumbnails, card=tmp_path / "card.html")
    assert sorted(path.name for path in bundle.folder.iterdir()) == [
        "base_vectors.npy", "bundle.json", "card.html", "index.faiss", "map_axes.npy", "records.parquet",
        "thumbnails.tar",
    ]  # fmt: skip
    info = bundle.info
    assert (info.n, info.dim, info.factory, info.metric, info.recall_at_10) == (60, 6, "Flat", "cosine", 1.0)
    assert (info.encoder_id, info.base_encoder_id, info.manifest_hash) == ("encoder-a", "encoder-base", "manifest-1")
    assert sum(info.score_histogram.counts) == 60
    assert info.peak_memory_bytes > 1 << 20
    np.testing.assert_allclose(
        bundle.base_vectors(), base.vectors / np.linalg.norm(base.vectors, axis=1, keepdims=True), rtol=1e-6
    )
    assert bundle.column("group") == features.column("group")


def test_thumbnails_are_read_by_key_and_by_any_tar_program(tmp_path: Path) -> None:
    long_key = "objects-000000/" + "a" * 150
    thumbnails = {"0001": b"one", long_key: b"x" * 512, "0000": b""}
    features = pool(on_circle([0, 10, 20, 30]), key=["0000", "0001", long_key, "other"])
    bundle = build_bundle(features, tmp_path / "bundle", thumbnails=thumbnails.items())
    assert {key: bundle.thumbnail(key) for key in thumbnails} == thumbnails
    assert bundle.thumbnail("other") is None
    assert bundle.thumbnail("no such key") is None
    with tarfile.open(bundle.folder / "thumbnails.tar") as tar:
        assert {member.name.removesuffix(".jpg"): member.size for member in tar} == {
            key: len(data) for key, data in thumbnails.items()
        }


def test_the_order_of_embedding_does_not_change_the_bundle(tmp_path: Path) -> None:
    features, base = random_pool(), random_pool(encoder_id="encoder-base", seed=1)
    order = np.random.default_rng(0).permutation(60)
    first = build_bundle(features, tmp_path / "a", base=base)
    second = build_bundle(features.take(order), tmp_path / "b", base=base.take(order[::-1]))
    assert first.info.id == second.info.id
    assert first.info.files == second.info.files
    assert first.column("key") == sorted(features.keys)


def test_the_reference_histogram_leaves_out_an_image_and_its_group(tmp_path: Path) -> None:
    """Pairs of one group 1 degree apart, the next pair 60 degrees away: the nearest stranger is at 59 degrees."""
    features = pool(on_circle([0, 1, 60, 61]), group=["a", "a", "b", "b"])
    histogram = build_bundle(features, tmp_path / "bundle").info.score_histogram
    edges = np.linspace(histogram.low, histogram.high, len(histogram.counts) + 1)
    expected, _ = np.histogram(np.cos(np.radians([60, 59, 59, 60])).round(6), edges)
    assert histogram.counts == expected.tolist()


def test_the_map_is_the_projection_on_the_two_widest_directions() -> None:
    rng = np.random.default_rng(0)
    axes, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    vectors = (rng.normal(size=(400, 8)) * [5, 3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1] @ axes.T).astype(np.float32)
    plane = principal_map(vectors)
    places, explained = plane.places(vectors), plane.explained
    centred = vectors - vectors.mean(axis=0)
    left, spread, _ = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    np.testing.assert_allclose(np.abs(places), np.abs(left[:, :2] * spread[:2]), atol=1e-3)
    assert explained == pytest.approx(float((spread[:2] ** 2).sum() / (spread**2).sum()), rel=1e-6)
    directions, *_ = np.linalg.lstsq(centred, places, rcond=None)
    assert all(direction[np.abs(direction).argmax()] > 0 for direction in directions.T)
    np.testing.assert_allclose(principal_map(vectors[::-1]).places(vectors), places, atol=1e-3)


@pytest.mark.parametrize("num_rows", [1, 2])
def test_the_smallest_pools_can_be_indexed(num_rows: int, tmp_path: Path) -> None:
    bundle = build_bundle(pool(on_circle([0, 90][:num_rows])), tmp_path / "bundle")
    assert bundle.search(on_circle([5]), 3).rows.tolist() == [[0, 1][:num_rows]]


def test_another_encoder_is_refused_naming_both(tmp_path: Path) -> None:
    build_bundle(random_pool(), tmp_path / "bundle")
    with pytest.raises(ArtifactMismatch, match="built with encoder encoder-a, but encoder encoder-b is to search"):
        IndexBundle.open(tmp_path / "bundle", encoder_id="encoder-b")
    IndexBundle.open(tmp_path / "bundle", encoder_id="encoder-a")


@pytest.mark.parametrize("name", ["index.faiss", "records.parquet", "thumbnails.tar", "base_vectors.npy"])
def test_a_changed_or_missing_file_is_refused_by_name(name: str, tmp_path: Path) -> None:
    folder = build_bundle(random_pool(), tmp_path / "bundle", base=random_pool()).folder
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(InvalidInput, match=rf"{name}: damaged or changed"):
        IndexBundle.open(folder)
    (folder / name).unlink()
    with pytest.raises(InvalidInput, match=rf"{name}: this file is missing"):
        IndexBundle.open(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 0}, "index bundle of format 0, this version reads format 2"),
        ({"encoder_id": "another"}, "its id .* does not belong to what it lists"),
        ({"surprise": 1}, "unknown key 'surprise'"),
    ],
)
def test_an_edited_description_is_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    path = build_bundle(random_pool(), tmp_path / "bundle").folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InvalidInput, match=message):
        IndexBundle.open(path.parent)


@pytest.mark.parametrize(("text", "message"), [("{", "not a JSON file"), ("[]", "describes no index bundle")])
def test_a_broken_description_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text(text)
    with pytest.raises(InvalidInput, match=message):
        IndexBundle.open(tmp_path)


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no index bundle here \(bundle\.json is missing\)"):
        IndexBundle.open(tmp_path / "nowhere")


def test_a_failed_build_leaves_the_older_bundle_and_no_rest(tmp_path: Path) -> None:
    older = build_bundle(random_pool(), tmp_path / "bundle")
    with pytest.raises(InvalidInput, match="a thumbnail for an image that has no vector"):
        build_bundle(random_pool(seed=5), tmp_path / "bundle", thumbnails=[("stranger", b"")])
    assert IndexBundle.open(tmp_path / "bundle").info == older.info
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    newer = build_bundle(random_pool(seed=5), tmp_path / "bundle")
    assert newer.info.id != older.info.id
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_with_other_things_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").touch()
    with pytest.raises(InvalidInput, match=r"exists and holds no bundle\.json"):
        build_bundle(random_pool(), tmp_path)


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="same: this key stands twice"):
        build_bundle(pool(on_circle([0, 5, 9]), key=["same", "other", "same"]), tmp_path / "bundle")


def test_base_vectors_of_other_images_are_refused(tmp_path: Path) -> None:
    features = random_pool()
    with pytest.raises(ArtifactMismatch, match="embedded 59 images and encoder encoder-a 60, not the same ones"):
        build_bundle(features, tmp_path / "bundle", base=features.take(range(59)))
    stranger = dataclasses.replace(features, manifest_hash="manifest-2")
    with pytest.raises(ArtifactMismatch, match="manifest manifest-2 beside features of manifest manifest-1"):
        build_bundle(features, tmp_path / "bundle", base=stranger)


def test_asking_for_base_vectors_that_were_not_given_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="built without vectors of a base encoder"):
        build_bundle(random_pool(), tmp_path / "bundle").base_vectors()


def test_importing_the_library_loads_neither_torch_nor_faiss() -> None:
    code = "import sys, viewfold.retrieval; print(sorted({'torch', 'faiss', 'ray'} & set(sys.modules)))"
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"


def test_an_opened_bundle_stays_what_it_was_when_another_takes_its_place(tmp_path: Path) -> None:
    """SQ8 keeps `vectors.npy` beside the index, so that all files read by rows are there."""
    features, base = random_pool(), random_pool(encoder_id="encoder-base", seed=1)
    built = {"factory": "SQ8", "thumbnails": [(key, key.encode() * 9) for key in features.keys], "base": base}
    opened = build_bundle(features, tmp_path / "bundle", **built)  # type: ignore[arg-type]
    exact, rows = opened.exact().take(np.arange(60)), np.arange(60)
    before = np.array(opened.base_vectors())
    later = slice(1, None)
    built |= {"thumbnails": [(key, key.encode() * 5) for key in features.keys[later]], "base": base.take(rows[later])}
    build_bundle(features.take(rows[later]), tmp_path / "bundle", **built)  # type: ignore[arg-type]
    remove_images(tmp_path / "bundle", ["0005"])
    assert opened.alive.all()
    assert opened.thumbnail("0007") == b"0007" * 9
    np.testing.assert_array_equal(opened.exact().take(rows), exact)
    np.testing.assert_array_equal(opened.base_vectors(), before)


def test_records_of_many_row_groups_are_one_piece_of_which_few_rows_are_read(tmp_path: Path) -> None:
    table = pa.table({"key": [f"{row:04d}" for row in range(60)], "label": [None, "a", "b"] * 20})
    pq.write_table(table, tmp_path / "records.parquet", row_group_size=7)
    assert read_records(tmp_path).equals(table)
    assert [column.num_chunks for column in read_records(tmp_path).columns] == [1, 1]
