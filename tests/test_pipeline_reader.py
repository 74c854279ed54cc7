"""Reading members of shards: local and remote alike, ahead of need, in any process."""

import os
import pickle
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from servers import Fault, FileServer, file_server, wait_until
from tiny import truncate, write_objects, write_tar

from viewfold.errors import ShardError
from viewfold.pipeline.reader import ShardReader, open_shard
from viewfold.pipeline.remote.ahead import ReadAhead
from viewfold.pipeline.shards import Member

SIZE = 50_000
SHARDS = 14

# Python 3.12 warns of every fork of a process that has threads; that this one can be forked is what is tested.
forks = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """Shards of random bytes at /0.tar and so on, and an empty shard cache."""
    monkeypatch.setenv("VIEWFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VIEWFOLD_CACHE_BYTES", raising=False)
    with file_server() as server:
        server.files.update({f"/{n}.tar": random.Random(n).randbytes(SIZE) for n in range(SHARDS)})
        yield server


def reader_of(server: FileServer) -> ShardReader:
    return ShardReader([f"{server.url}/{n}.tar" for n in range(SHARDS)], [SIZE] * SHARDS)


def fetched(server: FileServer) -> list[int]:
    return [int(Path(request.path).stem) for request in server.requests if request.method == "GET"]


def idle() -> bool:
    return not any(thread.name == "viewfold-read-ahead" for thread in threading.enumerate())


def num_open() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_reader_refuses_a_shard_that_changed_and_says_both_sizes(tmp_path: Path) -> None:
    shard = write_objects(tmp_path)[0]
    size = shard.stat().st_size
    truncate(shard)
    with pytest.raises(ShardError, match=f"has {size // 2} bytes where the manifest says {size}"):
        ShardReader([str(shard)], [size]).read(0, Member(0, 1))


def test_a_shard_that_is_cut_while_it_is_open_is_noticed(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", [("a.jpg", bytes(3000))])
    with ShardReader([str(shard)], [shard.stat().st_size]) as reader:
        assert reader.read(0, Member(512, 3000)) == bytes(3000)
        truncate(shard, keep=1000 / shard.stat().st_size)
        with pytest.raises(ShardError, match=r"^a\.tar: was cut short .*: 488 of 3000 bytes at byte 512"):
            reader.read(0, Member(512, 3000))


def test_a_pickled_reader_opens_its_own_files(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", [("a.jpg", b"abc")])
    with ShardReader([str(shard)], [shard.stat().st_size]) as reader:
        assert reader.read(0, Member(512, 3)) == b"abc"
        copy = pickle.loads(pickle.dumps(reader))
    with copy:
        assert copy.read(0, Member(512, 3)) == b"abc"


def write_numbered(folder: Path) -> ShardReader:
    paths = [write_tar(folder / f"{n}.tar", [("a.jpg", str(n).encode())]) for n in range(70)]
    return ShardReader([str(path) for path in paths], [path.stat().st_size for path in paths])


def test_a_reader_of_many_shards_keeps_few_open(tmp_path: Path) -> None:
    before = num_open()
    with write_numbered(tmp_path) as reader:
        assert [reader.read(n, Member(512, len(str(n)))) for n in range(70)] == [str(n).encode() for n in range(70)]
        assert num_open() - before <= 16
    assert num_open() == before


def test_threads_may_share_a_reader_that_opens_and_closes_all_the_time(tmp_path: Path) -> None:
    with write_numbered(tmp_path) as reader, ThreadPoolExecutor(8) as threads:
        order = random.Random(0).choices(range(10, 70), k=4000)
        assert list(threads.map(lambda n: int(reader.read(n, Member(512, 2))), order)) == order


def test_a_remote_shard_is_read_like_a_local_one(server: FileServer, tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    path.write_bytes(server.files["/0.tar"])
    with ShardReader([path.as_uri(), f"{server.url}/0.tar"], [SIZE, SIZE]) as reader:
        for member in (Member(0, 0), Member(0, SIZE), Member(1234, 999)):
            assert (
                reader.read(0, member)
                == reader.read(1, member)
                == server.files["/0.tar"][member.offset :][: member.size]
            )
        with pytest.raises(ShardError, match=r"^0\.tar: was cut short"):
            reader.read(1, Member(SIZE - 1, 2))
    with os.fdopen(open_shard(f"{server.url}/0.tar", expected=None), "rb") as file:
        assert file.read() == server.files["/0.tar"]


def test_reading_ahead_fetches_in_the_order_of_need_and_each_once(server: FileServer) -> None:
    order = random.Random(0).sample(range(SHARDS), SHARDS)
    with reader_of(server) as reader:
        reader.read_ahead(order[:5])
        wait_until(idle)
        assert sorted(fetched(server)) == sorted(order[:5])
        for place, shard in enumerate(order):
            reader.read_ahead(order[place : place + 5])
            assert reader.read(shard, Member(7, 7)) == server.files[f"/{shard}.tar"][7:14]
    wait_until(idle)
    assert sorted(fetched(server)) == list(range(SHARDS))


def test_reading_ahead_stops_when_the_reader_is_closed(server: FileServer) -> None:
    before = num_open()
    server.faults["/0.tar"] = server.faults["/1.tar"] = [Fault(stall_after=10)] * 2
    with reader_of(server) as reader:
        reader.read_ahead(range(SHARDS))
        wait_until(lambda: len(fetched(server)) == 2)
    server.released.set()
    wait_until(idle)
    assert sorted(fetched(server)) == [0, 1]
    wait_until(lambda: num_open() <= before + 4)  # connections that are kept; no shards


class Opened:
    """What a thread opens; counts those that are not closed."""

    live = 0

    def __init__(self) -> None:
        Opened.live += 1

    def __del__(self) -> None:
        Opened.live -= 1


def test_no_more_than_some_are_opened_ahead_and_those_passed_over_are_given_up() -> None:
    begun: list[int] = []

    def open_ahead(shard: int) -> Opened:
        begun.append(shard)
        return Opened()

    ahead = ReadAhead(open_ahead)
    ahead.want(range(100))
    wait_until(idle)
    assert (sorted(begun), Opened.live) == (list(range(16)), 16)
    taken = ahead.take(10)
    assert taken is not None
    wait_until(idle)
    assert (sorted(begun), Opened.live) == (list(range(27)), 17)  # 11 to 26, and the one taken
    assert [ahead.take(shard) for shard in (3, 10, 100)] == [None] * 3
    del taken
    ahead.forget()
    wait_until(idle)
    assert (len(begun), Opened.live) == (27, 0)


def test_what_fails_ahead_fails_when_it_is_read_and_says_the_same(server: FileServer) -> None:
    server.always["/3.tar"] = Fault(status=403)
    with reader_of(server) as plain, pytest.raises(ShardError) as expected:
        plain.read(3, Member(0, 1))
    with reader_of(server) as reader:
        reader.read_ahead([3, 4])
        wait_until(idle)
        assert reader.read(4, Member(0, SIZE)) == server.files["/4.tar"]
        with pytest.raises(ShardError) as caught:
            reader.read(3, Member(0, 1))
        del server.always["/3.tar"]
        assert reader.read(3, Member(0, SIZE)) == server.files["/3.tar"]
    assert str(caught.value) == str(expected.value)


def test_reading_ahead_takes_no_room_from_what_is_being_read(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIEWFOLD_CACHE_BYTES", str(3 * SIZE))
    with reader_of(server) as reader:
        reader.read(0, Member(0, 1))
        reader.read_ahead([1, 2, 3, 4])
        wait_until(idle)
        assert sorted(fetched(server)) == [0, 1, 2]
        for shard in range(5):
            assert reader.read(shard, Member(0, SIZE)) == server.files[f"/{shard}.tar"]
    assert sorted(fetched(server)) == [0, 1, 2, 3, 4]


def test_local_shards_are_not_read_ahead(tmp_path: Path) -> None:
    with write_numbered(tmp_path) as reader:
        before = num_open()
        reader.read_ahead(range(70))
        assert idle()
        assert num_open() == before


def read_in_child(reader: ShardReader) -> None:
    reader.read_ahead([2, 3])
    same = [reader.read(n, Member(0, SIZE)) == random.Random(n).randbytes(SIZE) for n in (0, 1, 2, 3)]
    reader.close()
    os._exit(0 if all(same) else 1)


@forks
def test_a_process_forked_amid_reading_ahead_reads_on_its_own(server: FileServer) -> None:
    server.faults["/1.tar"] = [Fault(stall_after=10)]
    with reader_of(server) as reader:
        reader.read(0, Member(0, 1))
        reader.read_ahead([1, 4])
        assert server.stalled.wait(20)
        child = get_context("fork").Process(target=read_in_child, args=(reader,), daemon=True)
        child.start()
        server.released.set()
        assert reader.read(1, Member(0, SIZE)) == server.files["/1.tar"]
        child.join(20)
        assert child.exitcode == 0
        wait_until(idle)
    assert sorted(fetched(server)) == [0, 1, 2, 3, 4]
