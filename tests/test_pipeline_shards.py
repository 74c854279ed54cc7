"""Scanning tar shards: what a sample is, where its bytes lie, and what damage leaves of them."""

import io
import os
import random
import re
import subprocess
import tarfile
from pathlib import Path

import pytest
from faults import BLOCK, KEYS, end_of, overwritten, sound, start_of, tar_bytes
from tiny import write_objects, write_tar

from viewfold.errors import ShardError
from viewfold.pipeline.shards import Fault, Member, ShardSample, scan_shard


def scan(data: Path | bytes, *, faults: list[Fault] | None = None) -> list[ShardSample]:
    return scan_shard(io.BytesIO(data if isinstance(data, bytes) else data.read_bytes()), "a", faults=faults)


def test_every_member_lies_where_tarfile_finds_it(tmp_path: Path) -> None:
    path = write_objects(tmp_path)[0]
    found = {f"{sample.key}.{ext}": member for sample in scan(path) for ext, member in sample.members.items()}
    with tarfile.open(path) as tar:
        assert found == {info.name: Member(info.offset_data, info.size) for info in tar}


LONG = ("folder-" * 20, "deep/" * 40 + "k", "sch\xf6n/gr\xf6\xdfe", "x" * 97)


@pytest.mark.parametrize("kind", ["pax", "gnu", "ustar", "tar"])
def test_names_of_any_length_and_script_are_read_in_every_format(kind: str, tmp_path: Path) -> None:
    names = [f"{name[:90]}{n}.jpg" if kind == "ustar" else f"{name}{n}.jpg" for n, name in enumerate(LONG)]
    if kind == "tar":  # GNU tar itself, with folders among the members
        for name in names:
            (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / name).write_bytes(b"x" * len(name))
        subprocess.run(["tar", "-cf", "a.tar", "-C", "in", "."], cwd=tmp_path, check=True)
    else:
        formats = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT}
        with tarfile.open(tmp_path / "a.tar", "w", format=formats[kind]) as tar:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = len(name)
                tar.addfile(info, io.BytesIO(b"x" * len(name)))
    with tarfile.open(tmp_path / "a.tar") as tar:
        expected = {info.name: Member(info.offset_data, info.size) for info in tar if info.isreg()}
    assert {f"{one.key}.jpg": one.members["jpg"] for one in scan(tmp_path / "a.tar")} == expected


def test_a_key_ends_at_the_first_dot_of_the_name_and_keeps_its_folder(tmp_path: Path) -> None:
    names = ["v1.0/a.07.JPG", "v1.0/a.json", "README", "./._hidden.jpg", "c.jpg"]
    faults: list[Fault] = []
    shard = write_tar(tmp_path / "a.tar", [(name, b"x") for name in names])
    assert [(one.key, list(one.members)) for one in scan(shard, faults=faults)] == [("c", ["jpg"])]
    assert [(fault.key, fault.offset) for fault in faults] == [("v1.0/a", BLOCK)]  # no image 00


def test_numbered_images_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", [(f"o.{n:02d}.jpg", bytes(n + 1)) for n in (1, 0, 2)])
    assert [member.size for member in scan(shard)[0].images("a")] == [1, 2, 3]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a.json"], "no image"),
        (["a.00.jpg", "a.02.jpg"], "numbered 00, 01"),
        (["a.jpg", "a.png"], "once each"),
        (["a.01.jpg", "a.02.jpg"], "numbered 00, 01"),
        (["a.jpg", "b.jpg", "a.json"], "its members are not adjacent"),
        (["a.jpg", "a.JPG"], "the member .jpg occurs twice, first at byte 512"),
        (["a.\udcff.jpg"], "is not UTF-8"),
    ],
)
def test_a_sample_that_cannot_be_told_is_refused(names: list[str], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=rf"^a: a: byte \d+: .*{reason}"):
        scan(write_tar(tmp_path / "a.tar", [(name, b"x") for name in names]))


@pytest.mark.parametrize("kind", ["pax", "gnu"])
def test_a_sparse_file_is_refused_for_its_bytes_are_not_those_of_the_file(kind: str, tmp_path: Path) -> None:
    with (tmp_path / "k0.jpg").open("wb") as file:
        for hole in range(40):  # more than a header has room for
            file.seek(hole << 16)
            file.write(b"x")
    (tmp_path / "k1.jpg").write_bytes(b"y")
    format_option = {"pax": "posix", "gnu": "gnu"}[kind]
    command = ["tar", "-cSf", "a.tar", f"--format={format_option}", "k0.jpg", "k1.jpg"]
    subprocess.run(command, cwd=tmp_path, check=True)
    faults: list[Fault] = []
    (sample,) = scan(tmp_path / "a.tar", faults=faults)
    assert (sample.key, [fault.key for fault in faults]) == ("k1", ["k0"])
    assert "sparse" in faults[0].reason


@pytest.mark.parametrize("cut", [*range(0, 3000, 100), BLOCK, 2 * BLOCK])
def test_a_shard_cut_at_any_place_keeps_the_samples_before(cut: int) -> None:
    data = tar_bytes([("a.jpg", bytes(300)), ("b.jpg", bytes(300))])
    faults: list[Fault] = []
    samples = scan(data[:cut], faults=faults)
    assert [sample.key for sample in samples] == ["a", "b"][: (cut >= 812) + (cut >= 1836)]
    assert bool(faults) == (cut < 2048 + BLOCK)
    assert not faults or re.search("empty file" if cut == 0 else "cut short", faults[0].reason)


def test_a_shard_whose_rest_never_came_is_not_taken_for_a_short_one() -> None:
    """What is left of a download that had its place on the disk kept, and was stopped."""
    start = start_of("k3.jpg", sound()) - BLOCK
    data = tar_bytes(sound())[:start] + bytes(200 * BLOCK)
    with pytest.raises(ShardError, match=f"^a: byte {start}: .*more than an end mark"):
        scan(data)
    assert len(scan(data[: start + 100 * BLOCK])) == 3


def test_the_samples_beside_a_damaged_header_are_kept_where_they_have_everything() -> None:
    data, header = overwritten("k3.jpg", b"\xa5")
    faults: list[Fault] = []
    assert [sample.key for sample in scan(data, faults=faults)] == [key for key in KEYS if key != "k3"]
    assert [(fault.key, fault.offset) for fault in faults] == [("", header), ("k3", header)]


@pytest.mark.parametrize(
    ("format_", "name"), [(tarfile.PAX_FORMAT, "gr\xf6\xdfe{}"), (tarfile.GNU_FORMAT, "x" * 97 + "{}")]
)
def test_a_name_whose_own_header_is_lost_is_not_taken_for_what_is_left_of_it(format_: int, name: str) -> None:
    names = [f"{name.format(n)}.jpg" for n in range(3)]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    data = bytearray(buffer.getvalue())
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        starts = [info.offset for info in tar]
    data[starts[1] : starts[1] + BLOCK] = b"x" * BLOCK
    faults: list[Fault] = []
    assert [f"{sample.key}.jpg" for sample in scan(bytes(data), faults=faults)] == [names[0], names[2]]
    assert "may have been longer" in faults[-1].reason


def test_whatever_bytes_are_damaged_no_sample_is_taken_for_another() -> None:
    whole = tar_bytes(sound())
    members = {key: {"jpg", "json"} for key in KEYS}
    places = {name: Member(start_of(name, sound()), len(data)) for name, data in sound()}
    draw = random.Random(0)
    for _ in range(400):
        data, start = bytearray(whole), draw.randrange(end_of(sound()))
        length = draw.choice([1, 100, BLOCK, 3000])
        filling = draw.choice([draw.randbytes(length), bytes(length)])
        end = min(start + length, len(data))
        data[start:end] = filling[: end - start]
        if not data[start:].strip(b"\0"):
            continue  # a shard that ends there is the same
        faults: list[Fault] = []
        samples = scan(bytes(data), faults=faults)
        for sample in samples:
            assert set(sample.members) == members[sample.key]
            assert all(places[f"{sample.key}.{ext}"] == member for ext, member in sample.members.items())
        untouched = [key for key in KEYS if start >= last_of(key) or end <= start_of(f"{key}.jpg", sound()) - BLOCK]
        assert set(untouched) <= {sample.key for sample in samples}
        assert faults or len(samples) == len(KEYS)


def last_of(key: str) -> int:
    """The byte behind a sample."""
    contents = dict(sound())
    return start_of(f"{key}.json", sound()) + -(-len(contents[f"{key}.json"]) // BLOCK) * BLOCK


def test_scanning_a_large_shard_takes_no_more_than_its_headers(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with path.open("wb") as file:  # 8 GB that take no room: more than an octal size field holds
        info = tarfile.TarInfo("a.jpg")
        info.size = 9 << 30
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(BLOCK + info.size + 2 * BLOCK)
    with path.open("rb") as shard:
        (sample,) = scan_shard(shard, "a")
    assert sample.members == {"jpg": Member(BLOCK, 9 << 30)}
    assert os.stat(path).st_blocks * 512 < 1 << 20
