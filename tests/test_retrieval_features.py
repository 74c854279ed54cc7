"""Feature sets: what is written is read back, and nothing else is."""

import json
from pathlib import Path

import numpy as np
import pytest
from pools import pool

from viewfold.errors import ArtifactMismatch, InvalidInput
from viewfold.retrieval import FeatureSet, FeatureWriter


def random_pool(num_rows: int) -> FeatureSet:
    vectors = np.random.default_rng(0).normal(size=(num_rows, 5)).astype(np.float32)
    return pool(vectors, domain=[None, "there"] * (num_rows // 2))


def test_a_saved_set_is_read_back_to_the_bit(tmp_path: Path) -> None:
    features = random_pool(10)
    features.save(tmp_path / "features")
    again = FeatureSet.load(tmp_path / "features", encoder_id="encoder-a")
    assert again.records.equals(features.records)
    np.testing.assert_array_equal(again.vectors, features.vectors)
    assert (again.encoder_id, again.manifest_hash, again.part) == ("encoder-a", "manifest-1", "invariant")
    assert again.column("domain")[:2] == [None, "there"]


def test_writing_in_batches_gives_the_same_set_as_writing_at_once(tmp_path: Path) -> None:
    features = random_pool(10)
    with FeatureWriter(tmp_path, encoder_id="e", manifest_hash="m", part="all", rows_per_file=4) as writer:
        for start in range(0, 10, 3):
            rows = features.take(range(start, min(start + 3, 10)))
            writer.add(rows.records, rows.vectors.astype(np.float64))
    assert [path.name for path in sorted(tmp_path.glob("*.parquet"))] == [
        "features-00000.parquet",
        "features-00001.parquet",
    ]
    again = FeatureSet.load(tmp_path)
    assert again.keys == features.keys
    np.testing.assert_array_equal(again.vectors, features.vectors)


def test_take_keeps_vectors_and_records_together() -> None:
    features = random_pool(10)
    taken = features.take([7, 2])
    assert taken.keys == ["0007", "0002"]
    np.testing.assert_array_equal(taken.vectors, features.vectors[[7, 2]])


def test_an_interrupted_writer_leaves_no_feature_set_and_its_rest_is_cleared(tmp_path: Path) -> None:
    features = random_pool(4)
    with FeatureWriter(tmp_path, encoder_id="e", manifest_hash="older", part="all") as older:
        older.add(features.records, features.vectors)

    def cut() -> None:
        with FeatureWriter(tmp_path, encoder_id="e", manifest_hash="m", part="all", rows_per_file=1) as writer:
            writer.add(features.records, features.vectors)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut()
    assert (tmp_path / "features-00000.parquet").exists()
    with pytest.raises(InvalidInput, match=r"no feature set here \(features\.json is missing\)"):
        FeatureSet.load(tmp_path)
    FeatureWriter(tmp_path, encoder_id="e", manifest_hash="m", part="all")
    assert not list(tmp_path.iterdir())


def test_features_of_another_encoder_are_refused_naming_both(tmp_path: Path) -> None:
    random_pool(2).save(tmp_path / "features")
    with pytest.raises(ArtifactMismatch, match=r"encoder encoder-a, but encoder encoder-b"):
        FeatureSet.load(tmp_path / "features", encoder_id="encoder-b")


def test_another_format_and_a_changed_file_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "features"
    random_pool(2).save(folder)
    info = json.loads((folder / "features.json").read_text())
    (folder / "features.json").write_text(json.dumps(info | {"format": 0}))
    with pytest.raises(ArtifactMismatch, match=r"format 0, this version reads format 1"):
        FeatureSet.load(folder)
    (folder / "features.json").write_text(json.dumps(info))
    with (folder / "features-00000.parquet").open("ab") as file:
        file.write(b"x")
    with pytest.raises(InvalidInput, match=r"features-00000\.parquet: damaged or changed"):
        FeatureSet.load(folder)


def test_a_vector_that_is_not_finite_is_refused_by_key(tmp_path: Path) -> None:
    features = random_pool(4)
    features.vectors[2, 1] = np.nan
    with pytest.raises(InvalidInput, match=r"0002: the encoder's vector is not finite"):
        features.save(tmp_path / "features")
    assert not list(tmp_path.iterdir())


def test_no_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no image was embedded"):
        random_pool(2).take([]).save(tmp_path / "features")


def test_a_folder_with_other_things_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InvalidInput, match=r"exists and holds no features\.json"):
        random_pool(2).save(tmp_path)
    assert (tmp_path / "thesis.tex").exists()
