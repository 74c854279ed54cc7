"""Every kind of fault is named by shard, key, byte and reason; what is whole survives a repair byte for byte."""

import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from faults import FAULTS, KEYS, Broken, sound, start_of, tar_bytes, write
from tiny import write_images, write_objects, write_tar

from viewfold.cli import main
from viewfold.errors import InvalidInput, ShardError
from viewfold.pipeline.indexer import index_shards
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.quarantine import QUARANTINE_NAME, read_quarantine
from viewfold.pipeline.repair import LEFT_OUT_NAME, REPAIRED_NAME, repair_shards
from viewfold.pipeline.verify import verify

every_fault = pytest.mark.parametrize("broken", FAULTS, ids=lambda broken: broken.name)

Facts = tuple[str, str, int, str]
"""Shard, key, byte and reason."""


def two_shards(folder: Path, broken: Broken) -> tuple[list[str], int]:
    """A sound shard, a broken one, and the byte of its fault."""
    (folder / "sound.tar").write_bytes(tar_bytes(sound()))
    return [str(folder / "sound.tar"), str(folder / "bad.tar")], write(broken, folder / "bad.tar")


def lines(path: Path) -> list[Facts]:
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [(row["shard"], row["key"], row["offset"], row["reason"]) for row in rows]


def is_named(broken: Broken, offset: int, facts: list[Facts]) -> bool:
    """Whether the fault is among what was found, and nothing was found elsewhere than in its shard."""
    assert {shard for shard, *_ in facts} == {"bad"}
    found = [reason for _, key, byte, reason in facts if (key, byte) == (broken.key, offset)]
    return any(re.search(broken.reason, reason) for reason in found)


def keys_of(manifest: ShardManifest) -> list[str]:
    return [manifest.key(row) for row in range(len(manifest))]


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]


@every_fault
def test_indexing_and_verifying_name_every_fault(broken: Broken, tmp_path: Path) -> None:
    paths, offset = two_shards(tmp_path, broken)
    if broken.seen_in != "image":
        with pytest.raises(ShardError, match=r"^bad: (k\d: )?byte \d+: .*--max-bad-share.*data repair"):
            index_shards(paths, tmp_path)
    manifest = index_shards(paths, tmp_path, max_bad_share=0.5)
    listed = lines(tmp_path / QUARANTINE_NAME)
    left_out = {broken.key, *broken.lost.split()} if broken.seen_in != "image" else set()
    assert keys_of(manifest)[len(KEYS) :] == [f"bad/{key}" for key in KEYS if key not in left_out]
    if broken.seen_in == "headers":
        assert is_named(broken, offset, listed)
    found = [(fault.shard, fault.key, fault.offset, fault.reason) for fault in verify(manifest)]
    assert is_named(broken, offset, found)
    assert {(key, reason) for _, key, _, reason in listed} <= {(key, reason) for _, key, _, reason in found}


@every_fault
def test_a_repair_keeps_what_is_whole_and_says_what_is_not(broken: Broken, tmp_path: Path) -> None:
    paths, offset = two_shards(tmp_path, broken)
    repaired = repair_shards(paths, tmp_path / "clean")
    kept = [key for key in KEYS if key not in broken.lost.split()]
    assert members(tmp_path / "clean" / "sound.tar") == dict(sound())
    if kept:
        expected = {name: data for name, data in sound() if name.split(".")[0] in kept}
        assert members(tmp_path / "clean" / "bad.tar") == expected
    else:
        assert not (tmp_path / "clean" / "bad.tar").exists()
    assert keys_of(repaired.manifest) == [f"sound/{key}" for key in KEYS] + [f"bad/{key}" for key in kept]
    assert is_named(broken, offset, lines(tmp_path / "clean" / (REPAIRED_NAME if broken.mended else LEFT_OUT_NAME)))
    assert verify(repaired.manifest) == []


@every_fault
def test_repairing_twice_gives_the_same_bytes(broken: Broken, tmp_path: Path) -> None:
    once = repair_shards(two_shards(tmp_path, broken)[0], tmp_path / "once")
    again = repair_shards([shard.location for shard in once.manifest.shards], tmp_path / "again")
    assert (again.left_out, again.mended) == ([], [])
    names = sorted(path.name for path in (tmp_path / "again").iterdir())
    assert names == sorted({path.name for path in (tmp_path / "once").iterdir()} - {LEFT_OUT_NAME, REPAIRED_NAME})
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "once" / name).read_bytes()


def test_a_sample_without_its_json_is_no_fault(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [member for member in sound() if member[0] != "k3.json"])
    assert verify(index_shards([path], tmp_path)) == []
    assert len(repair_shards([str(path)], tmp_path / "clean").manifest) == len(KEYS)


@pytest.mark.parametrize("kind", ["images", "objects"])
def test_repairing_sound_shards_keeps_every_sample(kind: str, tmp_path: Path) -> None:
    paths = write_images(tmp_path) if kind == "images" else write_objects(tmp_path)
    before = index_shards(paths, tmp_path)
    repaired = repair_shards(list(map(str, paths)), tmp_path / "clean")
    assert (repaired.left_out, repaired.mended) == ([], [])
    assert keys_of(repaired.manifest) == keys_of(before)
    for path in paths:
        assert members(tmp_path / "clean" / path.name) == members(path)
    for column in ("label", "domain", "group"):
        np.testing.assert_array_equal(getattr(repaired.manifest, column), getattr(before, column))


def test_a_repaired_shard_tells_nothing_of_who_packed_it_and_when(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, _ in sound():
            (tmp_path / name).write_bytes(dict(sound())[name])
            tar.add(tmp_path / name, arcname=name)
    repair_shards([str(tmp_path / "a.tar")], tmp_path / "clean")
    assert (tmp_path / "clean" / "a.tar").read_bytes() == tar_bytes(sound())


def test_larger_shards_are_cut_where_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes(sound()))
    repaired = repair_shards([str(tmp_path / "a.tar")], tmp_path / "clean", shard_bytes=start_of("k2.json", sound()))
    assert [(shard.name, shard.samples) for shard in repaired.manifest.shards] == [("a-0000", 3), ("a-0001", 3)]
    whole = repair_shards([str(tmp_path / "a.tar")], tmp_path / "whole", shard_bytes=1 << 20)
    assert [(shard.name, shard.samples) for shard in whole.manifest.shards] == [("a", 6)]


def test_files_of_no_sample_are_left_out_and_listed(tmp_path: Path) -> None:
    stored = [("README", b"hello"), *sound(), ("._k0.jpg", b"\0")]
    path = write_tar(tmp_path / "a.tar", stored)
    repaired = repair_shards([str(path)], tmp_path / "clean")
    places = [start_of(name, stored) for name in ("README", "._k0.jpg")]
    assert [(fault.key, fault.offset) for fault in repaired.left_out] == [("", place) for place in places]
    assert "README is no member of a sample" in repaired.left_out[0].reason


def test_a_repair_that_cannot_be_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.tar").write_bytes(b"")
    with pytest.raises(InvalidInput, match=r"no whole sample in 1 shards; .*empty: byte 0: an empty file of 0 bytes"):
        repair_shards([str(tmp_path / "empty.tar")], tmp_path / "clean")
    with pytest.raises(ShardError, match="cannot be opened"):
        repair_shards([str(tmp_path / "gone.tar")], tmp_path / "clean")
    (path,) = write_images(tmp_path / "a", samples=4)
    with pytest.raises(InvalidInput, match="have one name"):
        repair_shards([str(path), str(tmp_path / "b" / path.name)], tmp_path / "clean")
    assert {entry.name for entry in tmp_path.iterdir()} == {"a", "empty.tar"}
    with pytest.raises(InvalidInput, match="not empty"):
        repair_shards([str(path)], tmp_path / "a")


def test_the_verbs_find_leave_out_list_and_mend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(code: int, *words: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            main(["data", *words])
        out, err = capsys.readouterr()
        assert stopped.value.code == code
        assert "Traceback" not in err
        return out or err

    faults = {broken.name: broken for broken in FAULTS}
    for name, broken in (("a", "a member twice"), ("b", "header overwritten"), ("c", "half a JPEG")):
        write(faults[broken], tmp_path / f"{name}.tar")
    data, out = str(tmp_path), str(tmp_path / "indexed")
    refused = said(2, "index", data, "--out", out)
    assert re.search(
        r"^error: a: k3: byte \d+: .* \(3 of 19 samples cannot be used, .*--max-bad-share 0\.2` ", refused, re.M
    )
    assert "16 samples in 3 shards" in said(0, "index", data, "--out", out, "--max-bad-share", "0.2")
    assert "samples left out, listed in" in said(0, "stats", out, "--sheet", str(tmp_path / "sheet.png"))
    report = said(2, "verify", out, "--quarantine", str(tmp_path / "found.jsonl")).splitlines()
    assert report[-1] == "16 samples in 3 shards: 4 problems"
    assert re.fullmatch(r"c: k3: byte \d+: the JPEG is cut short: .*", report[-2])
    assert len(read_quarantine(tmp_path / "found.jsonl")) == 4
    mended = said(0, "repair", data, "--out", str(tmp_path / "clean"), "--shard-bytes", "1000000")
    assert "16 samples in 3 shards" in mended
    assert "2 samples left out, listed in" in mended
    assert "1 samples mended, listed in" in mended
    assert "0 problems" in said(0, "verify", str(tmp_path / "clean"))
