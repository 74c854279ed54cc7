"""The manifest: identity, vocabularies, lookups, subsets, and what is refused."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny import truncate, write_images, write_objects, write_shards

from viewfold.errors import InvalidInput, ShardError
from viewfold.pipeline.indexer import index_shards
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.quarantine import read_quarantine


@pytest.fixture
def images(tmp_path: Path) -> ShardManifest:
    return index_shards(write_images(tmp_path / "data"), tmp_path / "data")


def one_sample(folder: Path, about: object) -> list[Path]:
    data = about if isinstance(about, bytes) else json.dumps(about).encode()
    return write_shards(folder, "one", [{"a.jpg": b"x", "a.json": data}])


def test_a_loaded_manifest_is_the_one_written(images: ShardManifest, tmp_path: Path) -> None:
    for path in (tmp_path / "data", tmp_path / "data" / "manifest.json"):
        loaded = ShardManifest.load(path)
        assert (loaded.hash, loaded.labels, loaded.shards) == (images.hash, images.labels, images.shards)
        assert [loaded.key(row) for row in range(len(loaded))] == [images.key(row) for row in range(len(images))]
        assert [loaded.samples.images(row) for row in range(24)] == [images.samples.images(row) for row in range(24)]


def test_rows_hold_what_was_written(images: ShardManifest) -> None:
    assert (len(images), images.labels, images.domains) == (
        24,
        ("class-0", "class-1", "class-2"),
        ("style-0", "style-1"),
    )
    assert images.key(13) == "images-000001/img-0013"
    assert images.label.tolist() == [n // 2 % 3 for n in range(24)]
    assert images.domain.tolist() == [n % 2 for n in range(24)]
    assert [images.groups[g] for g in images.group] == [f"thing-{n // 2}" for n in range(24)]


def test_an_image_is_found_at_its_place(tmp_path: Path) -> None:
    paths = write_objects(tmp_path)
    manifest = index_shards(paths, tmp_path)
    place = manifest.place(7, 2)
    assert (place.shard, manifest.image_key(7, 2)) == ("objects-000001", "objects-000001/obj-0007.02")
    data = paths[1].read_bytes()[place.offset : place.offset + place.size]
    assert data.startswith(b"\xff\xd8")
    assert data.endswith(b"\xff\xd9")


def test_latents_count_only_where_every_sample_has_them(tmp_path: Path, images: ShardManifest) -> None:
    objects = write_objects(tmp_path / "o")
    assert index_shards(objects, tmp_path / "o").num_latents == 7
    both = index_shards([*objects, *write_images(tmp_path / "i")], tmp_path / "both")
    assert (images.num_latents, both.num_latents) == (0, 0)


def test_the_hash_ignores_where_shards_lie_and_sees_what_they_hold(images: ShardManifest, tmp_path: Path) -> None:
    moved = shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    loaded = ShardManifest.load(Path(moved))
    with loaded.reader() as reader:
        assert reader.read(0, loaded.samples.images(0)[0]).startswith(b"\x89PNG")
    assert index_shards(sorted(Path(moved).glob("*.tar")), tmp_path / "far" / "off").hash == images.hash
    changed = write_images(tmp_path / "changed", seed=1)
    assert index_shards(changed, tmp_path / "changed").hash != images.hash
    assert index_shards(changed[:2], tmp_path / "fewer").hash != index_shards(changed, tmp_path / "changed").hash


def test_numbers_as_names_are_sorted_as_numbers(tmp_path: Path) -> None:
    samples = [{f"{n}.jpg": b"x", f"{n}.json": json.dumps({"label": n}).encode()} for n in (10, 2, 1)]
    assert index_shards(write_shards(tmp_path, "n", samples), tmp_path).labels == ("1", "2", "10")


def test_cls_and_txt_members_are_labels(tmp_path: Path) -> None:
    samples = [{"a.jpg": b"x", "a.cls": b"3\n"}, {"b.jpg": b"x", "b.txt": b" cat "}, {"c.jpg": b"x"}]
    manifest = index_shards(write_shards(tmp_path, "n", samples), tmp_path)
    assert (manifest.labels, manifest.label.tolist()) == (("3", "cat"), [0, 1, -1])


def test_subsets_keep_the_vocabularies_and_have_their_own_hash(images: ShardManifest) -> None:
    first = images.subset(domains=["style-0"])
    assert [first.key(row) for row in range(len(first))] == [images.key(row) for row in range(0, 24, 2)]
    assert (first.labels, first.domains) == (images.labels, images.domains)
    assert first.label.tolist() == images.label[::2].tolist()
    assert first.place(3, 0) == images.place(6, 0)
    assert first.hash == images.subset(without_domains=["style-1"]).hash != images.hash
    assert images.subset(labelled=True) is images


def test_subsets_by_label(tmp_path: Path) -> None:
    manifest = index_shards(write_objects(tmp_path, unlabelled=4), tmp_path)
    assert (len(manifest.subset(labelled=True)), len(manifest.subset(labelled=False))) == (8, 4)


def test_a_subset_without_samples_or_of_an_unknown_domain_is_refused(images: ShardManifest) -> None:
    with pytest.raises(InvalidInput, match="did you mean 'style-1'"):
        images.subset(domains=["style1"])
    with pytest.raises(InvalidInput, match="no sample of 24 is left"):
        images.subset(labelled=False)


def test_a_manifest_crosses_processes(images: ShardManifest) -> None:
    copy = pickle.loads(pickle.dumps(images.subset(domains=["style-1"])))
    assert copy.key(3) == images.key(7)
    np.testing.assert_array_equal(copy.label, images.label[1::2])


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        (b"{", "its JSON cannot be read"),
        ([1], "holds a list"),
        ({"label": ["a"]}, r"its label is \[\"a\"\]"),
        ({"domain": ""}, 'its domain is ""'),
        ({"latents": [1.0]}, r"latents have shape \[1\]"),
        ({"latents": [[1.0], [2.0]]}, r"shape \[2, 1\], expected a row for each of 1"),
        ({"latents": [["a"]]}, "not rows of numbers"),
        ({"latents": [[float("nan")]]}, "not finite"),
    ],
)
def test_a_json_that_cannot_be_used_names_shard_and_key(about: object, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=rf"^one-000000: a: byte 1536: .*{reason}"):
        index_shards(one_sample(tmp_path, about), tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_two_shards_of_one_name_are_refused(tmp_path: Path) -> None:
    paths = [*write_images(tmp_path / "a"), *write_images(tmp_path / "b")]
    with pytest.raises(InvalidInput, match="have one name"):
        index_shards(paths, tmp_path)


def test_nothing_to_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no shard"):
        index_shards([], tmp_path)
    with pytest.raises(InvalidInput, match="no sample in 1 shards"):
        index_shards(write_shards(tmp_path, "n", [{"README": b""}]), tmp_path)


def test_a_manifest_that_is_gone_or_torn_is_refused(images: ShardManifest, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with pytest.raises(InvalidInput, match="viewfold data index"):
        ShardManifest.load(tmp_path / "none")
    other = index_shards(write_images(tmp_path / "other", seed=1), tmp_path / "other")
    assert other.hash != images.hash
    shutil.copy(tmp_path / "other" / "samples.arrow", folder / "samples.arrow")
    with pytest.raises(InvalidInput, match=r"samples\.arrow is not the table"):
        ShardManifest.load(folder)
    for text, reason in (
        (r"{", "not a manifest"),
        ('{"format": "x"}', "viewfold-manifest-2"),
        ("[]", "not a manifest"),
    ):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(InvalidInput, match=reason):
            ShardManifest.load(folder)


def test_indexing_reports_every_shard(tmp_path: Path) -> None:
    done: list[int] = []
    index_shards(write_images(tmp_path), tmp_path, progress=done.append)
    assert done == [1, 1, 1]


def test_a_table_cut_short_is_refused(images: ShardManifest, tmp_path: Path) -> None:
    truncate(tmp_path / "data" / "samples.arrow")
    with pytest.raises(InvalidInput, match=r"samples\.arrow is not the table"):
        ShardManifest.load(tmp_path / "data")


def test_columns_at_some_rows_are_those_of_the_whole_and_rows_of_a_part_are_its_own(images: ShardManifest) -> None:
    rows = np.array([23, 0, 11, 11, 7])
    for name in ("label", "domain", "group", "num_latents"):
        np.testing.assert_array_equal(images.samples.numbers(name, rows), images.samples.column(name)[rows])
    part = images.subset(domains=["style-1"])
    np.testing.assert_array_equal(part.label, images.label[1::2])
    assert [part.key(row) for row in range(12)] == [images.key(row) for row in range(1, 24, 2)]
    np.testing.assert_array_equal(part.samples.shard(np.arange(12)), images.samples.shard(np.arange(1, 24, 2)))
    with pytest.raises(IndexError):
        part.key(12)
    with pytest.raises(IndexError):
        images.key(24)


def test_samples_that_cannot_be_used_are_left_out_and_listed(tmp_path: Path) -> None:
    good = [{f"s{n}.jpg": b"x", f"s{n}.json": b"{}"} for n in range(9)]
    paths = write_shards(tmp_path, "n", [*good, {"bad.jpg": b"x", "bad.json": b"{"}])
    with pytest.raises(ShardError, match=r"n-000000: bad: byte \d+: .*JSON.*--max-bad-share 0\.1`"):
        index_shards(paths, tmp_path)
    manifest = index_shards(paths, tmp_path, max_bad_share=0.1)
    assert [manifest.key(row) for row in range(len(manifest))] == [f"n-000000/s{n}" for n in range(9)]
    (bad,) = read_quarantine(tmp_path / "quarantine.jsonl")
    assert (bad.key, bad.epoch) == ("bad", -1)
    index_shards(write_shards(tmp_path, "n", good), tmp_path)
    assert not (tmp_path / "quarantine.jsonl").exists()
