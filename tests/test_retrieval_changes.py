"""A bundle that images are added to, removed from, and that is cleared of what was removed."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pools import pool

from viewfold.errors import ArtifactMismatch, InvalidInput
from viewfold.retrieval import (
    FeatureSet,
    IndexBundle,
    add_images,
    build_bundle,
    compact_bundle,
    fit_calibration,
    inspected,
    inspection,
    remove_images,
    scored,
)
from viewfold.retrieval.index.files import check_sha256


def features(num_rows: int = 700, *, encoder_id: str = "encoder-a", seed: int = 0) -> FeatureSet:
    vectors = np.random.default_rng(seed).normal(size=(num_rows, 6)).astype(np.float32)
    labels = [f"l{row % 3}" for row in range(num_rows)]
    return pool(vectors, encoder_id=encoder_id, label=labels)


def part(first: int, last: int, **facts: str) -> FeatureSet:
    return features(**facts).take(range(first, last))  # type: ignore[arg-type]


@pytest.mark.parametrize("factory", ["Flat", "IVF8,Flat", "IVF8,SQ8", "HNSW8"])
def test_adding_in_two_parts_answers_as_building_at_once(factory: str, tmp_path: Path) -> None:
    build_bundle(part(0, 500), tmp_path / "bundle", factory=factory)
    first = IndexBundle.open(tmp_path / "bundle").info
    info = add_images(tmp_path / "bundle", part(500, 700))
    bundle, whole = IndexBundle.open(tmp_path / "bundle"), build_bundle(features(), tmp_path / "whole", factory="Flat")
    assert (info.n, info.change, info.parents) == (700, "add 200", (first.id,))
    assert info.id not in (first.id, whole.info.id)
    assert bundle.column("key") == whole.column("key")
    found, exact = bundle.search(features().vectors[480:520], 1), whole.search(features().vectors[480:520], 1)
    np.testing.assert_array_equal(found.rows, exact.rows)
    np.testing.assert_array_equal(bundle.exact().take(np.arange(700)), whole.exact().take(np.arange(700)))
    assert info.recall_at_10 > 0.8


def test_base_vectors_are_added_too_or_the_addition_is_refused(tmp_path: Path) -> None:
    base = {"encoder_id": "encoder-base"}
    build_bundle(part(0, 500), tmp_path / "bundle", base=part(0, 500, **base))
    with pytest.raises(InvalidInput, match=r"has vectors of base encoder encoder-base; add .* with --base"):
        add_images(tmp_path / "bundle", part(500, 700))
    add_images(tmp_path / "bundle", part(500, 700), base=part(500, 700, **base))
    whole = build_bundle(features(), tmp_path / "whole", base=features(**base))  # type: ignore[arg-type]
    np.testing.assert_array_equal(IndexBundle.open(tmp_path / "bundle").base_vectors(), whole.base_vectors())
    build_bundle(part(0, 500), tmp_path / "bare")
    with pytest.raises(InvalidInput, match="no vectors of a base encoder, so --base encoder-base has no effect"):
        add_images(tmp_path / "bare", part(500, 700), base=part(500, 700, **base))


@pytest.mark.parametrize("factory", ["Flat", "IVF8,Flat", "HNSW8"])
def test_what_was_removed_is_no_answer_and_is_gone_after_compaction(factory: str, tmp_path: Path) -> None:
    thumbnails = [("0003", b"three"), ("0004", b"four")]
    built = build_bundle(features(), tmp_path / "bundle", factory=factory, thumbnails=thumbnails)
    info = remove_images(tmp_path / "bundle", ["0003", "0005"])
    bundle = IndexBundle.open(tmp_path / "bundle")
    assert (info.n, info.num_deleted, bundle.info) == (700, 2, info)
    assert not {3, 5} & set(bundle.search(features().vectors[[3, 5]], 690).rows.ravel().tolist())
    assert (tmp_path / "bundle" / "index.faiss").stat().st_nlink == 1
    with pytest.raises(InvalidInput, match=r"0003: the index .* holds no such image"):
        remove_images(tmp_path / "bundle", ["0003"])
    compacted = compact_bundle(tmp_path / "bundle")
    bundle = IndexBundle.open(tmp_path / "bundle")
    assert (compacted.n, compacted.num_deleted, compacted.factory) == (698, 0, factory)
    assert compacted.parents == (info.id, built.info.id)
    assert {"0003", "0005"}.isdisjoint(bundle.column("key"))
    assert (bundle.thumbnail("0004"), bundle.thumbnail("0003")) == (b"four", None)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_an_image_that_was_removed_may_come_back(tmp_path: Path) -> None:
    build_bundle(features(), tmp_path / "bundle")
    remove_images(tmp_path / "bundle", ["0007"])
    add_images(tmp_path / "bundle", part(7, 8))
    bundle = IndexBundle.open(tmp_path / "bundle")
    assert bundle.search(features().vectors[[7]], 1).rows.tolist() == [[700]]
    compact_bundle(tmp_path / "bundle")
    assert IndexBundle.open(tmp_path / "bundle").column("key") == features().keys


def test_changes_that_do_not_fit_are_refused_and_leave_the_bundle(tmp_path: Path) -> None:
    info = build_bundle(part(0, 500), tmp_path / "bundle").info
    with pytest.raises(ArtifactMismatch, match=r"made with encoder encoder-a, .* with encoder encoder-b"):
        add_images(tmp_path / "bundle", part(500, 700, encoder_id="encoder-b"))
    with pytest.raises(InvalidInput, match=r"0499: .* holds this image already"):
        add_images(tmp_path / "bundle", part(499, 700))
    with pytest.raises(InvalidInput, match="an index cannot be empty"):
        remove_images(tmp_path / "bundle", part(0, 500).keys)
    assert IndexBundle.open(tmp_path / "bundle").info == info
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_bundle_is_shown_with_its_lineage_and_scored_on_new_images(tmp_path: Path) -> None:
    built = build_bundle(features(), tmp_path / "bundle").info
    remove_images(tmp_path / "bundle", ["0000"])
    facts = json.loads(json.dumps(inspected(tmp_path / "bundle")))
    assert (facts["images"], facts["num_deleted"], facts["labels"]) == (699, 1, {"l0": 233, "l1": 233, "l2": 233})
    table = inspection(facts)
    assert f"remove 1 <- {built.id}" in table
    assert "699, and 1 removed" in table
    new = features(50, seed=0)
    result = scored(tmp_path / "bundle", new)
    assert (result["queries"], result["recall_at_10"]) == (50, 1.0)
    unit = features().vectors / np.linalg.norm(features().vectors, axis=1, keepdims=True)
    cosines = unit[:50] @ unit.T
    cosines[:, 0] = cosines[np.arange(50), np.arange(50)] = -2
    assert result["precision_at_1"] == pytest.approx((cosines.argmax(1) % 3 == np.arange(50) % 3).mean())
    with pytest.raises(ArtifactMismatch, match=r"made with encoder encoder-a, .* encoder encoder-b"):
        scored(tmp_path / "bundle", features(encoder_id="encoder-b"))


class Racing(FeatureSet):
    """Features that, while they are read, try to remove an image of the bundle that they are added to."""

    bundle: Path

    def blocks(self, num_rows: int) -> Iterator[NDArray[np.float32]]:
        with pytest.raises(InvalidInput, match="bundle: another process is changing it; wait until it ends"):
            remove_images(self.bundle, ["0003"])
        return super().blocks(num_rows)


def test_a_change_waits_for_none_and_loses_none(tmp_path: Path) -> None:
    build_bundle(part(0, 500), tmp_path / "bundle")
    new = part(500, 700)
    racing = Racing(new.encoder_id, new.manifest_hash, new.part, new.records, new.vectors)
    object.__setattr__(racing, "bundle", tmp_path / "bundle")
    add_images(tmp_path / "bundle", racing)
    remove_images(tmp_path / "bundle", ["0003"])
    info = IndexBundle.open(tmp_path / "bundle").info
    assert (info.n, info.num_deleted) == (700, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_the_calibration_stays_with_the_encoder(tmp_path: Path) -> None:
    domains = [f"d{row % 2}" for row in range(60)]
    vectors = features(60).vectors
    bundle = build_bundle(pool(vectors, domain=domains), tmp_path / "bundle")
    path = tmp_path / "bundle" / "calibration.json"
    fit_calibration(bundle).save(path)
    text = path.read_text()
    remove_images(tmp_path / "bundle", ["0000"])
    add_images(tmp_path / "bundle", pool(vectors).take([0]))
    compact_bundle(tmp_path / "bundle")
    assert path.read_text() == text


def test_vectors_of_another_length_or_part_are_refused(tmp_path: Path) -> None:
    base = part(0, 20, encoder_id="encoder-base")
    build_bundle(part(0, 20), tmp_path / "bundle", base=base)
    new, other = part(20, 25), part(20, 25, encoder_id="encoder-base")
    short = dataclasses.replace(new, vectors=new.vectors[:, :4])
    for change in (
        lambda: add_images(tmp_path / "bundle", short, base=other),
        lambda: scored(tmp_path / "bundle", short),
    ):
        with pytest.raises(ArtifactMismatch, match=r"made with vectors of length 6, .* with vectors of length 4"):
            change()
    with pytest.raises(ArtifactMismatch, match="made with part invariant, the features with part all"):
        scored(tmp_path / "bundle", dataclasses.replace(new, part="all"))
    with pytest.raises(ArtifactMismatch, match=r"made with vectors of length 6, .* with vectors of length 4"):
        add_images(tmp_path / "bundle", new, base=dataclasses.replace(other, vectors=other.vectors[:, :4]))


def test_what_is_left_may_need_another_factory(tmp_path: Path) -> None:
    build_bundle(features(), tmp_path / "bundle", factory="IVF16,Flat")
    remove_images(tmp_path / "bundle", features().keys[:200])
    with pytest.raises(InvalidInput, match="to train 16 centroids takes 624 vectors, there are 500"):
        compact_bundle(tmp_path / "bundle")
    info = compact_bundle(tmp_path / "bundle", factory="Flat")
    assert (info.n, info.factory, info.change) == (500, "Flat", "compact")


def test_an_image_without_a_label_is_not_added_to_labelled_ones(tmp_path: Path) -> None:
    build_bundle(part(0, 20), tmp_path / "bundle")
    new = part(20, 22)
    bare = new.records.set_column(1, new.records.schema.field("label"), pa.array(["l0", None]))
    with pytest.raises(InvalidInput, match=r"0021: has no label, and the images of .* have"):
        add_images(tmp_path / "bundle", dataclasses.replace(new, records=bare))


def test_a_bundle_that_is_replaced_while_it_is_opened_is_opened_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its description was read when another takes its place: a mixture of both would follow."""
    from viewfold.retrieval.index import bundle as opening

    folder, left = tmp_path / "bundle", [part(500, 520), part(520, 540)]
    build_bundle(part(0, 500), folder, factory="Flat")
    check = check_sha256

    def checked(where: Path, files: dict[str, str]) -> None:
        check(where, files)
        if left:
            add = left.pop()
            with monkeypatch.context() as undisturbed:
                undisturbed.setattr(opening, "check_sha256", check)
                add_images(where, add)

    monkeypatch.setattr(opening, "check_sha256", checked)
    opened = IndexBundle.open(folder)
    assert not left
    assert opened.info.n == len(opened.index) == opened.records.num_rows == len(opened.alive) == 540
