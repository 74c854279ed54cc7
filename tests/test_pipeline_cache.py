"""The shard cache: real processes that share a folder, compete for its room, and are killed."""

import os
import random
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import fsspec
import pytest
from servers import Fault, FileServer, file_server, wait_until

from viewfold.errors import InvalidInput, ShardError
from viewfold.pipeline.remote.cache import Cache, shard_cache
from viewfold.pipeline.remote.locks import exclusive, hold, is_held
from viewfold.pipeline.remote.retries import Patience

SIZE = 100_000
NAMES = "abcdefghij"
PATIENT = Patience(tries=3, first_pause_s=0.01, longest_pause_s=0.02, stall_s=20)

# Python 3.12 warns of every fork of a process that has threads; that this one can be forked is what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

FORK = get_context("fork")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as server:
        server.files.update({f"/{name}.tar": random.Random(name).randbytes(SIZE) for name in NAMES})
        yield server


@pytest.fixture
def make(tmp_path: Path) -> Callable[[float], Cache]:
    """A cache with room for so many shards."""
    return lambda shards: Cache(tmp_path / "cache", int(shards * SIZE), PATIENT)


def opened(cache: Cache, url: str, *, expected: int | None = SIZE) -> bytes:
    """The whole shard, and its file closed again."""
    handle = cache.open(url, expected=expected)
    assert handle is not None
    return taken(handle)


def taken(handle: int) -> bytes:
    with os.fdopen(handle, "rb") as file:
        return file.read()


def names(cache: Cache) -> list[str]:
    return sorted(path.suffix for path in cache.folder.iterdir())


def started(target: Callable[..., object], *arguments: object) -> BaseProcess:
    process = FORK.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def killed(process: BaseProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def test_a_shard_is_fetched_once_and_then_needs_no_server(server: FileServer, make: Callable[[float], Cache]) -> None:
    cache, url = make(5), f"{server.url}/a.tar"
    assert opened(cache, url) == server.files["/a.tar"]
    server.always["/a.tar"] = Fault(status=503)
    count = len(server.requests)
    assert opened(cache, url) == server.files["/a.tar"]
    assert (len(server.requests), names(cache), cache.held_bytes()) == (count, [".tar"], SIZE)


def test_without_an_expected_size_the_store_is_asked_what_it_has_now(
    server: FileServer, make: Callable[[float], Cache]
) -> None:
    cache, url = make(5), f"{server.url}/a.tar"
    old, new = server.files["/a.tar"], bytes(SIZE)
    assert opened(cache, url, expected=None) == old
    assert opened(cache, url, expected=None) == old
    assert len(server.gets("/a.tar")) == 1
    server.files["/a.tar"] = new
    assert opened(cache, url) == old  # of the size that was indexed: taken without asking
    assert opened(cache, url, expected=None) == new
    assert opened(cache, url) == new
    assert (len(server.gets("/a.tar")), names(cache)) == (2, [".tar"])


def test_a_shard_of_another_size_than_indexed_is_refused_with_both(
    server: FileServer, make: Callable[[float], Cache]
) -> None:
    cache, url = make(5), f"{server.url}/a.tar"
    opened(cache, url)
    with pytest.raises(ShardError, match=rf"^a\.tar: has {SIZE} bytes at {url} where the manifest says {SIZE - 1}"):
        opened(cache, url, expected=SIZE - 1)
    server.files["/a.tar"] = bytes(SIZE + 1)
    assert len(opened(cache, url)) == SIZE  # the indexed one is still here
    assert len(server.gets("/a.tar")) == 1


def test_a_cached_file_that_was_cut_is_fetched_again_once(server: FileServer, make: Callable[[float], Cache]) -> None:
    cache, url = make(5), f"{server.url}/a.tar"
    opened(cache, url)
    (path,) = cache.folder.iterdir()
    os.truncate(path, 10)
    assert opened(cache, url) == server.files["/a.tar"]
    os.truncate(path, 10)
    server.files["/a.tar"] = bytes(10)
    with pytest.raises(ShardError, match=f"has 10 bytes at .* where the manifest says {SIZE}"):
        opened(cache, url)


def test_what_memory_holds_is_not_taken_for_what_it_held_before(make: Callable[[float], Cache]) -> None:
    system = fsspec.filesystem("memory")
    for content in (b"x" * SIZE, b"y" * SIZE):
        system.pipe("/m/a.tar", content)
        assert opened(make(5), "memory://m/a.tar") == content


def test_the_shard_that_was_opened_longest_ago_goes_first(server: FileServer, make: Callable[[float], Cache]) -> None:
    cache = make(3.5)
    for name in "abcadae":  # b goes for d, c for e
        opened(cache, f"{server.url}/{name}.tar")
        time.sleep(0.01)  # file times are no finer than some milliseconds
    assert {name: len(server.gets(f"/{name}.tar")) for name in "abcde"} == dict.fromkeys("abcde", 1)
    for name in "ade":
        opened(cache, f"{server.url}/{name}.tar")
    assert len([request for request in server.requests if request.method == "GET"]) == 5
    assert cache.held_bytes() == 3 * SIZE


def test_a_shard_that_is_held_goes_last_and_stays_readable(server: FileServer, make: Callable[[float], Cache]) -> None:
    cache = make(2)
    a = cache.open(f"{server.url}/a.tar", expected=SIZE)
    for name in "bcd":
        opened(cache, f"{server.url}/{name}.tar")
    assert taken(cache.open(f"{server.url}/a.tar", expected=SIZE) or -1) == server.files["/a.tar"]
    assert len(server.gets("/a.tar")) == 1
    d = cache.open(f"{server.url}/d.tar", expected=SIZE)
    assert cache.open(f"{server.url}/e.tar", expected=SIZE, ahead=True) is None  # both are held: nothing is read ahead
    assert server.gets("/e.tar") == []
    e = cache.open(f"{server.url}/e.tar", expected=SIZE)  # but what is needed now is had
    for name, handle in zip("ade", (a, d, e), strict=True):
        assert handle is not None
        assert taken(handle) == server.files[f"/{name}.tar"]
    assert cache.held_bytes() == 2 * SIZE


def test_a_shard_larger_than_the_cache_is_refused_with_the_numbers(
    server: FileServer, make: Callable[[float], Cache]
) -> None:
    with pytest.raises(ShardError, match=f"has {SIZE} bytes, {SIZE // 2} more than the {SIZE // 2} of the shard cache"):
        opened(make(0.5), f"{server.url}/a.tar")


def test_a_shard_larger_than_the_disk_is_refused_with_the_numbers(server: FileServer, tmp_path: Path) -> None:
    server.always["/a.tar"] = Fault(longer_by=10**15)
    cache = Cache(tmp_path / "cache", 10**18, PATIENT)
    with pytest.raises(
        ShardError, match=rf"has {10**15 + SIZE} bytes and finds room for \d+ on the disk of .*VIEWFOLD_CACHE"
    ):
        opened(cache, f"{server.url}/a.tar", expected=None)
    assert (server.gets("/a.tar"), names(cache)) == ([], [])


def fill_with_limit(cache: Cache, url: str) -> str:
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, SIZE // 2))
    try:
        opened(cache, url)
    except ShardError as error:
        return str(error)
    return "no error"


def test_a_write_that_fails_is_one_line_and_leaves_nothing(server: FileServer, make: Callable[[float], Cache]) -> None:
    cache = make(5)
    with ProcessPoolExecutor(1, mp_context=FORK) as pool:
        said = pool.submit(fill_with_limit, cache, f"{server.url}/a.tar").result()
    assert said.startswith(f"a.tar: has {SIZE} bytes and cannot be written (File too large) on the disk")
    assert (len(server.gets("/a.tar")), names(cache)) == (1, [])


def test_a_folder_that_cannot_be_used_is_one_line(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match=r"file/cache: the shard cache cannot be used \(Not a directory\)"):
        opened(Cache(tmp_path / "file" / "cache", SIZE), f"{server.url}/a.tar")


def read_some(cache: Cache, url: str, seed: int, keep: int) -> int:
    """Read shards in a random order, holding the last few open; how many were not what they should be."""
    order = random.Random(seed)
    wrong, held = 0, []
    for _ in range(15):
        name = order.choice(NAMES)
        handle = cache.open(f"{url}/{name}.tar", expected=SIZE)
        assert handle is not None
        wrong += os.pread(handle, 2 * SIZE, 0) != random.Random(name).randbytes(SIZE)
        held.append(handle)
        if len(held) > keep:
            os.close(held.pop(0))
    return wrong


@pytest.mark.parametrize(("room", "keep"), [(6.5, 1), (1.5, 2)])
def test_processes_that_compete_never_hold_more_than_the_cap_and_read_what_is_right(
    server: FileServer, make: Callable[[float], Cache], room: float, keep: int
) -> None:
    cache = make(room)
    server.piece_pause_s = 0.001
    with ProcessPoolExecutor(4, mp_context=FORK) as pool:
        reads = [pool.submit(read_some, cache, server.url, seed, keep) for seed in range(4)]
        most = 0
        while not all(read.done() for read in reads):
            most = max(most, cache.held_bytes())
            time.sleep(0.002)
        assert [read.result() for read in reads] == [0] * 4
    most = max(most, cache.held_bytes())  # also where this process had no turn meanwhile
    assert int(room - 0.5) * SIZE <= most <= cache.max_bytes
    assert set(names(cache)) == {".tar"}
    assert sum(path.stat().st_size for path in cache.folder.iterdir()) == cache.held_bytes()


def test_processes_that_want_the_same_shard_fetch_it_once(server: FileServer, make: Callable[[float], Cache]) -> None:
    cache = make(5)
    server.faults["/a.tar"] = [Fault(stall_after=SIZE // 2)]
    with ProcessPoolExecutor(3, mp_context=FORK) as pool:
        reads = [pool.submit(opened, cache, f"{server.url}/a.tar") for _ in range(3)]
        assert server.stalled.wait(20)
        time.sleep(0.1)  # for the others to come to wait; if they do not, they find it whole
        server.released.set()
        assert [read.result() for read in reads] == [server.files["/a.tar"]] * 3
    assert len(server.gets("/a.tar")) == 1


def test_a_killed_fetch_hurts_nobody(server: FileServer, make: Callable[[float], Cache]) -> None:
    cache, url = make(1), f"{server.url}/a.tar"
    server.faults["/a.tar"] = [Fault(stall_after=SIZE // 2)] * 2
    first = started(opened, cache, url)
    assert server.stalled.wait(20)
    assert cache.held_bytes() == SIZE  # reserved in full from the start
    with ProcessPoolExecutor(1, mp_context=FORK) as pool:
        waiting = pool.submit(opened, cache, url)
        time.sleep(0.1)
        killed(first)
        wait_until(lambda: len(server.gets("/a.tar")) == 2)  # who waited takes over
        server.released.set()
        assert waiting.result() == server.files["/a.tar"]
    assert (names(cache), cache.held_bytes()) == ([".tar"], SIZE)


def test_what_a_killed_fetch_had_reserved_is_room_for_others(
    server: FileServer, make: Callable[[float], Cache]
) -> None:
    cache = make(1)
    server.faults["/a.tar"] = [Fault(stall_after=SIZE // 2)]
    first = started(opened, cache, f"{server.url}/a.tar")
    assert server.stalled.wait(20)
    killed(first)
    assert names(cache) == [".lock", ".part"]
    assert opened(cache, f"{server.url}/b.tar") == server.files["/b.tar"]
    assert [path.stat().st_size for path in cache.folder.glob("*.tar")] == [SIZE]
    assert opened(cache, f"{server.url}/a.tar") == server.files["/a.tar"]
    assert (names(cache), cache.held_bytes()) == ([".tar"], SIZE)


def test_who_finds_all_room_being_filled_waits_for_it(server: FileServer, make: Callable[[float], Cache]) -> None:
    cache = make(1)
    server.faults["/a.tar"] = [Fault(stall_after=SIZE // 2)]
    with ProcessPoolExecutor(2, mp_context=FORK) as pool:
        first = pool.submit(opened, cache, f"{server.url}/a.tar")
        assert server.stalled.wait(20)
        second = pool.submit(opened, cache, f"{server.url}/b.tar")
        wait_until(lambda: names(cache).count(".lock") == 2)
        assert cache.held_bytes() == SIZE
        server.released.set()
        assert (first.result(), second.result()) == (server.files["/a.tar"], server.files["/b.tar"])
    assert cache.held_bytes() == SIZE


def lock_in_a_thread_and_fork(path: Path, children: Path) -> None:
    def lock() -> None:
        with exclusive(path):
            locked.set()
            time.sleep(60)

    locked = threading.Event()
    threading.Thread(target=lock, daemon=True).start()
    locked.wait()
    if os.fork() == 0:
        children.write_text(f"{os.getpid()}\n")
    time.sleep(60)


def test_a_child_does_not_keep_the_lock_of_a_parent_that_was_killed(tmp_path: Path) -> None:
    path, children = tmp_path / "x.lock", tmp_path / "children"
    parent = started(lock_in_a_thread_and_fork, path, children)
    wait_until(lambda: children.exists() and children.read_text().endswith("\n"))
    try:
        assert is_held(path)
        killed(parent)
        assert not is_held(path)
        with exclusive(path):
            assert is_held(path)
        assert not path.exists()
    finally:
        os.kill(int(children.read_text()), signal.SIGKILL)


def test_a_file_is_held_until_the_last_handle_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert not is_held(path)
    path.touch()
    handles = [hold(path), hold(path)]
    for handle in handles:
        assert is_held(path)
        os.close(handle)
    assert not is_held(path)


@pytest.mark.parametrize(
    ("given", "most"),
    [("64", 64), ("50e9", 50 * 10**9), ("1.5GB", 15 * 10**8), ("2 GiB", 2 << 30), ("10m", 10**7), ("", 64 * 10**9)],
)
def test_the_cache_is_set_by_the_environment(given: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEWFOLD_CACHE", "~/x")
    monkeypatch.setenv("VIEWFOLD_CACHE_BYTES", given)
    assert shard_cache() == Cache(Path.home() / "x", most)


@pytest.mark.parametrize("given", ["0", "-1", "many", "10 XB", "0.4", "1e999", "GB"])
def test_a_number_of_bytes_that_is_none_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEWFOLD_CACHE_BYTES", given)
    with pytest.raises(InvalidInput, match=f"VIEWFOLD_CACHE_BYTES={given}: not a number of bytes"):
        shard_cache()
