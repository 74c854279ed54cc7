"""Embeddings in the layout of clip-retrieval and autofaiss, out and back."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pools import pool

from viewfold.errors import InvalidInput
from viewfold.retrieval import FeatureSet, build_bundle, export_embeddings, import_embeddings, remove_images


def features(num_rows: int = 23) -> FeatureSet:
    return pool(np.random.default_rng(0).normal(size=(num_rows, 6)).astype(np.float32))


def foreign(folder: Path, columns: dict[str, list[object]], dims: tuple[int, ...]) -> None:
    """Two images a partition, with these columns beside their keys, of vectors of these lengths."""
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    for number, dim in enumerate(dims):
        np.save(folder / "img_emb" / f"img_emb_{number}.npy", np.ones((2, dim), dtype=np.float16))
        table = pa.table({"key": [f"{number}a", f"{number}b"], **columns})
        pq.write_table(table, folder / "metadata" / f"metadata_{number}.parquet")


def test_partitions_are_numbered_so_that_names_sort_and_rows_keep_their_order(tmp_path: Path) -> None:
    features().save(tmp_path / "features")
    assert export_embeddings(tmp_path / "features", tmp_path / "out", partition_rows=2) == 23
    names = sorted(path.name for path in (tmp_path / "out" / "img_emb").iterdir())
    assert names == [f"img_emb_{number:02d}.npy" for number in range(12)]
    parts = [np.load(tmp_path / "out" / "img_emb" / name) for name in names]
    vectors = np.concatenate(parts)
    assert vectors.dtype == np.float16
    unit = features().vectors / np.linalg.norm(features().vectors, axis=1, keepdims=True)
    np.testing.assert_array_equal(vectors, unit.astype(np.float16))
    tables = [pq.read_table(path) for path in sorted((tmp_path / "out" / "metadata").iterdir())]
    assert [key for table in tables for key in table.column("image_path").to_pylist()] == features().keys


def test_what_was_exported_from_a_bundle_comes_back_as_a_feature_set_without_what_was_removed(tmp_path: Path) -> None:
    build_bundle(features(), tmp_path / "bundle")
    remove_images(tmp_path / "bundle", ["0003"])
    assert export_embeddings(tmp_path / "bundle", tmp_path / "out") == 22
    assert import_embeddings(tmp_path / "out", tmp_path / "again", encoder_id="clip") == 22
    again = FeatureSet.load(tmp_path / "again", encoder_id="clip")
    kept = features().take([row for row in range(23) if row != 3])
    assert again.records.equals(kept.records)
    unit = kept.vectors / np.linalg.norm(kept.vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(again.vectors, unit, atol=1e-3)


def test_a_folder_that_is_no_exchange_is_refused_by_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"img_emb_0\.npy: no such file"):
        import_embeddings(tmp_path, tmp_path / "out", encoder_id="clip")
    with pytest.raises(InvalidInput, match="neither an index bundle"):
        export_embeddings(tmp_path, tmp_path / "out")
    features().save(tmp_path / "features")
    export_embeddings(tmp_path / "features", tmp_path / "cut")
    np.save(tmp_path / "cut" / "img_emb" / "img_emb_0.npy", np.zeros((3, 6), dtype=np.float16))
    with pytest.raises(InvalidInput, match=r"\(3, 6\) numbers beside 23 rows"):
        import_embeddings(tmp_path / "cut", tmp_path / "out", encoder_id="clip")


@pytest.mark.parametrize(
    ("columns", "dims", "message"),
    [
        ({"size": ["10KB", "x"]}, (6,), r"metadata_0\.parquet: column 'size' holds string, which is no int64"),
        ({"label": [["a"], ["b"]]}, (6,), r"metadata_0\.parquet: column 'label' holds list.*, which is no string"),
        ({}, (6, 4), r"1a: its vector has 4 numbers, those before 6"),
    ],
)
def test_columns_and_lengths_that_do_not_fit_are_refused(
    columns: dict[str, list[object]], dims: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    foreign(tmp_path / "in", columns, dims)
    with pytest.raises(InvalidInput, match=message):
        import_embeddings(tmp_path / "in", tmp_path / "out", encoder_id="clip")
    assert not (tmp_path / "out").exists()


def test_a_hash_of_another_kind_is_left_out(tmp_path: Path) -> None:
    foreign(tmp_path / "in", {"phash": ["0123456789abcdef", "0x123456789abcde"], "label": [1, 2]}, (6,))
    import_embeddings(tmp_path / "in", tmp_path / "out", encoder_id="clip")
    features = FeatureSet.load(tmp_path / "out")
    assert (features.column("phash"), features.column("label")) == (["0123456789abcdef", None], ["1", "2"])
