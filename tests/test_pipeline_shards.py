"""Scanning tar shards: what a sample is, where its bytes lie, and every way in which a shard is refused."""

import pickle
import tarfile
from pathlib import Path

import pytest
from tiny import truncate, write_objects, write_tar

from viewfold.errors import InvalidInput, ShardError
from viewfold.pipeline.shards import Member, ShardReader, expand_shards, scan_shard


def test_every_member_lies_where_tarfile_finds_it(tmp_path: Path) -> None:
    path = write_objects(tmp_path)[0]
    found = {f"{s.key}.{ext}": member for s in scan_shard(path) for ext, member in s.members.items()}
    with tarfile.open(path) as tar, ShardReader([path], [path.stat().st_size]) as reader:
        expected = {info.name: Member(info.offset_data, info.size) for info in tar}
        contents = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
        assert {name: reader.read(0, member) for name, member in found.items()} == contents
    assert found == expected


def test_a_key_ends_at_the_first_dot_of_the_name_and_keeps_its_folder(tmp_path: Path) -> None:
    names = ["v1.0/a.b.JPG", "v1.0/a.json", "README", "./._hidden.jpg", "c.jpg"]
    shard = write_tar(tmp_path / "a.tar", [(name, b"x") for name in names])
    assert [(s.key, list(s.members)) for s in scan_shard(shard)] == [("v1.0/a", ["b.jpg", "json"]), ("c", ["jpg"])]


def test_numbered_images_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", [(f"o.{n:02d}.jpg", bytes(n + 1)) for n in (1, 0, 2)])
    assert [member.size for member in scan_shard(shard)[0].images("a")] == [1, 2, 3]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a.json"], "no image"),
        (["a.00.jpg", "a.02.jpg"], "numbered 00, 01"),
        (["a.jpg", "a.png"], "once each"),
        (["a.01.jpg", "a.02.jpg"], "numbered 00, 01"),
    ],
)
def test_images_that_cannot_be_matched_to_latents_are_refused(names: list[str], reason: str, tmp_path: Path) -> None:
    (sample,) = scan_shard(write_tar(tmp_path / "a.tar", [(name, b"x") for name in names]))
    with pytest.raises(ShardError, match=f"^a: a: .*{reason}"):
        sample.images("a")


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a.jpg", "b.jpg", "a.json"], "a: its members are not adjacent"),
        (["a.jpg", "a.jpg"], "a: the member .jpg occurs"),
    ],
)
def test_members_in_disorder_are_refused(names: list[str], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=reason):
        scan_shard(write_tar(tmp_path / "a.tar", [(name, b"x") for name in names]))


@pytest.mark.parametrize("cut", [0, 100, 512, 700, 1024, 1536, 2048, 2500])
def test_a_shard_cut_at_any_place_is_refused(cut: int, tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", [("a.jpg", bytes(300)), ("b.jpg", bytes(300))])  # ends at 2048, then zeros
    shard.write_bytes(shard.read_bytes()[:cut])
    with pytest.raises(ShardError, match=r"^a\.tar: (cut short|not a plain tar)"):
        scan_shard(shard)


def test_a_damaged_header_is_refused_where_tarfile_stops_in_silence(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", [("a.jpg", bytes(300)), ("b.jpg", bytes(300))])
    data = bytearray(shard.read_bytes())
    data[1024:1034] = b"x" * 10
    shard.write_bytes(data)
    with tarfile.open(shard) as tar:
        assert tar.getnames() == ["a.jpg"]
    with pytest.raises(ShardError, match="damaged at byte 1024"):
        scan_shard(shard)


def test_what_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"GIF89a" * 500)
    for path in (tmp_path / "a.tar", tmp_path / "none.tar", tmp_path):
        with pytest.raises(ShardError, match=r"not a plain tar|cannot be opened"):
            scan_shard(path)


def test_a_reader_refuses_a_shard_that_changed_and_says_both_sizes(tmp_path: Path) -> None:
    shard = write_objects(tmp_path)[0]
    size = shard.stat().st_size
    truncate(shard)
    with pytest.raises(ShardError, match=f"has {size // 2} bytes where the manifest says {size}"):
        ShardReader([shard], [size]).read(0, Member(0, 1))


def test_a_pickled_reader_opens_its_own_files(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", [("a.jpg", b"abc")])
    with ShardReader([shard], [shard.stat().st_size]) as reader:
        assert reader.read(0, Member(512, 3)) == b"abc"
        copy = pickle.loads(pickle.dumps(reader))
    with copy:
        assert copy.read(0, Member(512, 3)) == b"abc"


def test_a_reader_of_many_shards_keeps_few_open(tmp_path: Path) -> None:
    paths = [write_tar(tmp_path / f"{n}.tar", [("a.jpg", str(n).encode())]) for n in range(70)]
    before = len(list(Path("/proc/self/fd").iterdir()))
    with ShardReader(paths, [path.stat().st_size for path in paths]) as reader:
        assert [reader.read(n, Member(512, len(str(n)))) for n in range(70)] == [str(n).encode() for n in range(70)]
        assert len(list(Path("/proc/self/fd").iterdir())) - before <= 64
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_shards_are_named_by_file_folder_glob_and_range(tmp_path: Path) -> None:
    paths = [write_tar(tmp_path / f"a-{n:06d}.tar", []) for n in range(12)]
    (tmp_path / "notes.txt").write_text("")
    assert expand_shards(str(tmp_path)) == paths
    assert expand_shards([str(paths[3]), str(tmp_path / "a-00000*.tar")]) == [paths[3], *paths[:3], *paths[4:10]]
    assert expand_shards(str(tmp_path / "a-{000008..000011}.tar")) == paths[8:]
    assert expand_shards(str(tmp_path / "a-0000{0..1}{0..1}.tar")) == [paths[0], paths[1], paths[10], paths[11]]


@pytest.mark.parametrize("spec", [[], "none.tar", "a-{000000..000003}.tar", "*.tar"])
def test_shards_that_are_not_there_are_refused(spec: str | list[str], tmp_path: Path) -> None:
    write_tar(tmp_path / "a-000000.tar", [])
    named = [str(tmp_path / "sub" / part) for part in ([spec] if isinstance(spec, str) else spec)]
    with pytest.raises(InvalidInput, match="no shard"):
        expand_shards(named)
