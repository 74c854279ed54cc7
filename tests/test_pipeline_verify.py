"""Verifying a data set: what indexing and training would find, found at once and named."""

import re
import tarfile
from pathlib import Path

from tiny import break_image, truncate, write_images, write_objects, write_tar

from viewfold.pipeline.indexer import index_shards
from viewfold.pipeline.quarantine import QUARANTINE_NAME, read_quarantine
from viewfold.pipeline.stream import stream_batches
from viewfold.pipeline.stream_config import StreamConfig
from viewfold.pipeline.verify import verify


def test_a_whole_set_has_no_problems(tmp_path: Path) -> None:
    manifest = index_shards([*write_objects(tmp_path), *write_images(tmp_path)], tmp_path)
    done: list[int] = []
    assert verify(manifest, progress=done.append) == []
    assert sum(done) == len(manifest)


def test_every_bad_image_is_found_and_the_shard_that_changed_under_it(tmp_path: Path) -> None:
    paths = write_objects(tmp_path)
    manifest = index_shards(paths, tmp_path)
    for member in ("obj-0006.01.jpg", "obj-0006.03.jpg", "obj-0007.json"):
        break_image(paths[1], member)
    found = verify(manifest)
    assert [(problem.shard, problem.key) for problem in found] == [
        ("objects-000001", ""),
        ("objects-000001", "obj-0006"),
        ("objects-000001", "obj-0006"),
        ("objects-000001", "obj-0007"),
    ]
    assert found[0].reason.startswith("its sha256 is ")
    assert found[1].reason == "image 01: the JPEG is cut short: its end marker is missing"


def test_a_shard_that_is_gone_is_one_problem_and_one_that_was_cut_is_told_where(tmp_path: Path) -> None:
    paths = write_images(tmp_path)
    manifest = index_shards(paths, tmp_path)
    paths[0].unlink()
    truncate(paths[2])
    done: list[int] = []
    gone, *cut = verify(manifest, progress=done.append)
    assert (gone.shard, gone.key) == ("images-000000", "")
    assert "cannot be opened" in gone.reason
    assert {fault.shard for fault in cut} == {"images-000002"}
    assert "the manifest says" in cut[0].reason
    assert "cut short" in cut[1].reason
    assert "of its samples are gone since it was indexed" in cut[-1].reason
    assert sum(done) == len(manifest)


def test_samples_that_lie_elsewhere_than_indexed_are_counted(tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, samples=4)
    manifest = index_shards([path], tmp_path)
    with tarfile.open(path) as tar:
        members = [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    write_tar(path, [*members[2:4], *members[:2], *members[4:6], ("img-0009.png", members[6][1]), members[7]])
    reasons = [fault.reason for fault in verify(manifest) if fault.key == ""]
    assert any(
        reason.startswith("2 of its samples lie elsewhere than the manifest says, img-0001") for reason in reasons
    )
    assert any(re.match(r"its sha256 is \w+\.\.\., the manifest says", reason) for reason in reasons)


def test_what_was_left_out_when_indexing_is_found_again_and_training_would_find_the_rest(tmp_path: Path) -> None:
    """One sample that headers give away, one that only decoding does: verifying names both, by the same place."""
    paths = write_images(tmp_path)
    break_image(paths[1], "img-0015.json", keep=0)
    break_image(paths[2], "img-0021.png", keep=0)
    manifest = index_shards(paths, tmp_path, max_bad_share=0.1)
    (left_out,) = read_quarantine(tmp_path / QUARANTINE_NAME)
    config = StreamConfig(batch_size=23, max_bad_share=0.1)
    for _ in stream_batches(manifest, config, num_steps=1, quarantine=tmp_path / "run.jsonl"):
        pass
    (met,) = read_quarantine(tmp_path / "run.jsonl")
    found = verify(manifest)
    assert [(fault.shard, fault.key, fault.reason) for fault in found] == [
        (left_out.shard, left_out.key, left_out.reason),
        (met.shard, met.key, met.reason),
    ]
    assert (met.key, met.offset) == ("img-0021", found[1].offset)
