"""Where shards lie: what files, folders, globs, ranges and URLs name, and what is refused."""

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from servers import Fault, FileServer, file_server
from tiny import write_tar

from viewfold.errors import InvalidInput, ShardError
from viewfold.pipeline.locations import expand_shards, is_remote, shard_name, stamp, stamps
from viewfold.pipeline.remote.urls import PACKAGES, shown


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as server:
        server.files.update({f"/set/a-{n:03d}.tar": b"x" for n in range(12)} | {"/set/notes.txt": b"x"})
        yield server


def test_shards_are_named_by_file_folder_glob_and_range(tmp_path: Path) -> None:
    paths = [str(write_tar(tmp_path / f"a-{n:06d}.tar", [])) for n in range(12)]
    (tmp_path / "notes.txt").write_text("")
    assert expand_shards(str(tmp_path)) == paths
    assert expand_shards([paths[3], str(tmp_path / "a-00000*.tar")]) == [paths[3], *paths[:3], *paths[4:10]]
    assert expand_shards(str(tmp_path / "a-{000008..000011}.tar")) == paths[8:]
    assert expand_shards(str(tmp_path / "a-0000{0..1}{0..1}.tar")) == [paths[0], paths[1], paths[10], paths[11]]


def test_a_file_url_is_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    path = str(write_tar(folder / "a-0.tar", []))
    assert expand_shards(f"file://{tmp_path}/a%20b/a-{{0..0}}.tar") == [path]
    assert expand_shards([folder.as_uri(), f"file://localhost{path}"]) == [path]
    assert stamp(Path(path).as_uri()) == stamp(path)
    assert not is_remote(folder.as_uri())
    with pytest.raises(InvalidInput, match="names a path on this machine"):
        expand_shards("file://other/data/a.tar")


def test_shards_at_urls_are_named_by_address_folder_glob_and_range(server: FileServer) -> None:
    urls = [f"{server.url}/set/a-{n:03d}.tar" for n in range(12)]
    assert expand_shards(f"{server.url}/set/") == urls
    assert expand_shards([urls[3], f"{server.url}/set/a-00*.tar"]) == [urls[3], *urls[:3], *urls[4:10]]
    assert expand_shards(f"{server.url}/set/a-{{008..011}}.tar") == urls[8:]
    assert expand_shards(f"{server.url}/set/a-000.tar?sig=[x]") == [f"{server.url}/set/a-000.tar?sig=[x]"]
    assert server.gets("/set/a-000.tar") == []  # asked for, and not fetched


def test_a_store_that_lists_is_listed() -> None:
    fsspec.filesystem("memory").pipe({f"/set/{name}": b"x" for name in ("a-0.tar", "a-1.tar", "b.tar", "c.txt")})
    assert expand_shards("memory://set/") == ["memory://set/a-0.tar", "memory://set/a-1.tar", "memory://set/b.tar"]
    assert expand_shards("memory://set/a-[1-9].tar") == ["memory://set/a-1.tar"]


@pytest.mark.parametrize("spec", [[], "none.tar", "a-{000000..000003}.tar", "*.tar"])
def test_shards_that_are_not_there_are_refused(spec: str | list[str], tmp_path: Path) -> None:
    write_tar(tmp_path / "a-000000.tar", [])
    named = [str(tmp_path / "sub" / part) for part in ([spec] if isinstance(spec, str) else spec)]
    with pytest.raises(InvalidInput, match="no shard"):
        expand_shards(named)


def test_each_part_at_a_url_that_names_nothing_is_refused(server: FileServer) -> None:
    for part in ("set/b-*.tar", "none/"):
        with pytest.raises(InvalidInput, match=f"{part.replace('*', '.')}: no shard there"):
            expand_shards([f"{server.url}/set/", f"{server.url}/{part}"])
    with pytest.raises(ShardError, match=r"^a-012\.tar: cannot be read at .*/set/a-012\.tar: nothing is there"):
        expand_shards(f"{server.url}/set/a-{{010..012}}.tar")


@pytest.mark.parametrize(
    "part", ["pipe:curl http://host/a.tar", "ftp://host/a.tar", "simplecache::s3://b/a.tar", "gcs://b/a.tar"]
)
def test_a_scheme_that_is_not_read_is_answered_with_those_that_are(part: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        expand_shards(part)
    assert all(f"{scheme}://" in str(caught.value) for scheme in (*PACKAGES, "file"))
    assert "pip install 'viewfold[remote]'" in str(caught.value)


def test_a_shard_is_named_by_its_file_wherever_it_lies() -> None:
    locations = ["/a/x-0.tar", "s3://b/p/x-0.tar", "https://h/p/x-0.tar?sig=/y.tar", "hf://datasets/o/n/x-0.tar"]
    assert {shard_name(location) for location in locations} == {"x-0"}
    assert shard_name("http://h/x%20y.tar") == "x y"
    assert shard_name("s3://b/what?.tar") == "what?"
    assert [is_remote(location) for location in locations] == [False, True, True, True]


def test_what_is_shown_of_an_address_holds_no_secret() -> None:
    assert shown("https://me:pw@h/a.tar?sig=1") == "https://h/a.tar?..."
    assert shown("http://token@h/a.tar") == "http://h/a.tar"
    assert shown("s3://key:secret@b/a.tar") == "s3://b/a.tar"
    assert shown("hf://gpt2@main/a.tar") == "hf://gpt2@main/a.tar"


def test_a_stamp_changes_when_the_shard_does(server: FileServer, tmp_path: Path) -> None:
    path, url = write_tar(tmp_path / "a.tar", []), f"{server.url}/set/a-000.tar"
    before = stamp(str(path)), stamp(url)
    assert stamps([str(path), url]) == dict(zip((str(path), url), before, strict=True))
    os.utime(path, (1, 1))
    server.files["/set/a-000.tar"] = b"y"
    assert all(old != new for old, new in zip(before, (stamp(str(path)), stamp(url)), strict=True))
    path.unlink()
    server.always["/set/a-000.tar"] = Fault(status=404)
    for gone in (str(path), url):
        with pytest.raises(ShardError, match="cannot be read at"):
            stamp(gone)
