"""Remote stores: real servers that cut, stall, refuse and lie, and what a reader gets from them."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from multiprocessing import get_context
from pathlib import Path

import fsspec
import pytest
from servers import Fault, FileServer, file_server, put, s3_server

from viewfold.errors import InvalidInput, MissingDependency, ShardError
from viewfold.pipeline.remote import store
from viewfold.pipeline.remote.retries import Patience
from viewfold.pipeline.remote.store import Facts, fetch, listing, look

DATA = os.urandom(600_000)
SHORT = Patience(tries=3, first_pause_s=0.01, longest_pause_s=0.02, stall_s=0.4)

# Python 3.12 warns of every fork of a process that has threads; that this one can be forked is what is tested.
forks = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as server:
        server.files["/a.tar"] = DATA
        yield server


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def patience(pauses: list[float]) -> Patience:
    """Sleeps not at all, and notes for how long it would have."""
    return replace(SHORT, sleep=pauses.append)


def s3_at(url: str, patch: pytest.MonkeyPatch) -> None:
    """Have S3 at this address from now on, with any credentials."""
    patch.setattr(store, "_opened", {})
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        patch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        patch.setenv(name, os.devnull)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.setenv(name, "any")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    patch.setenv("AWS_ENDPOINT_URL", url)
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def fetched(url: str, size: int = len(DATA), patience: Patience = SHORT) -> bytes:
    data = bytearray(size)

    def write(offset: int, piece: bytes) -> None:
        data[offset : offset + len(piece)] = piece

    facts = Facts(size, "") if url.startswith("http") else look(url, patience=patience)
    fetch(url, facts, write, patience=patience)
    return bytes(data)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_transfer_that_is_cut_many_times_goes_on_where_it_stopped(
    server: FileServer, patience: Patience, ranges: bool
) -> None:
    data = os.urandom(8 << 20)
    server.files["/a.tar"], server.ranges = data, ranges
    # What the client has in its buffer at a cut, up to 400 kB, is lost with it.
    server.faults["/a.tar"] = [Fault(cut_after=(1 if ranges else n) << 20) for n in range(1, 7)]
    assert fetched(f"{server.url}/a.tar", len(data), patience) == data
    asked = [request.range for request in server.gets("/a.tar")]
    starts = [int(range_.removeprefix("bytes=").removesuffix("-") or 0) for range_ in asked]
    assert len(starts) == 7  # more than would be tried without progress
    assert starts == sorted(set(starts))


def test_a_transfer_that_never_gets_any_further_is_given_up(server: FileServer, patience: Patience) -> None:
    server.ranges = False
    server.always["/a.tar"] = Fault(cut_after=100_000)
    with pytest.raises(ShardError, match=r"received 100000 of 600000 bytes.*given up after 3 tries in a row"):
        fetched(f"{server.url}/a.tar", patience=patience)
    assert len(server.gets("/a.tar")) >= 3  # more where a busy machine let some of them get further than those before


def test_a_server_that_stalls_is_asked_again_and_a_slow_one_is_not(server: FileServer) -> None:
    server.faults["/a.tar"] = [Fault(stall_after=200_000)]
    assert fetched(f"{server.url}/a.tar") == DATA
    assert [request.range for request in server.gets("/a.tar")] == ["", "bytes=200000-"]
    server.requests.clear()
    server.piece_pause_s = 0.02  # 37 pieces: twice as long in all as a stall
    assert fetched(f"{server.url}/a.tar") == DATA
    assert len(server.gets("/a.tar")) == 1


def test_a_body_without_a_length_that_ends_early_goes_on(server: FileServer, patience: Patience) -> None:
    server.says_length = False
    server.faults["/a.tar"] = [Fault(cut_after=100_000)]
    assert fetched(f"{server.url}/a.tar", patience=patience) == DATA


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_an_answer_that_passes_is_waited_for(
    server: FileServer, patience: Patience, pauses: list[float], status: int
) -> None:
    server.faults["/a.tar"] = [Fault(status=status), Fault(status=status)]
    assert fetched(f"{server.url}/a.tar", patience=patience) == DATA
    assert [low <= pause <= 2 * low for low, pause in zip((0.005, 0.01), pauses, strict=True)] == [True, True]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 416, 501])
def test_an_answer_that_stays_is_said_at_once(
    server: FileServer, patience: Patience, pauses: list[float], status: int
) -> None:
    server.faults["/a.tar"] = [Fault(status=status)]
    says = "nothing is there" if status == 404 else str(status)
    with pytest.raises(ShardError, match=rf"^a\.tar: cannot be read at {server.url}/a\.tar: .*{says}"):
        fetched(f"{server.url}/a.tar", patience=patience)
    assert (len(server.gets("/a.tar")), pauses) == (1, [])


def test_a_server_that_never_recovers_is_given_up_with_what_it_said(
    server: FileServer, patience: Patience, pauses: list[float]
) -> None:
    server.always["/a.tar"] = Fault(status=503)
    for call in (look, lambda url, patience: fetched(url, patience=patience)):
        pauses.clear()
        with pytest.raises(ShardError, match="503 Service Unavailable; given up after 3 tries in a row"):
            call(f"{server.url}/a.tar", patience=patience)
        assert len(pauses) == 2


@pytest.mark.parametrize("seconds", [7, 70])
@pytest.mark.parametrize("as_date", [False, True])
def test_a_server_is_left_alone_for_as_long_as_it_asks(
    server: FileServer, patience: Patience, pauses: list[float], seconds: int, as_date: bool
) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
    server.faults["/a.tar"] = [Fault(status=429, headers={"Retry-After": date if as_date else str(seconds)})]
    assert fetched(f"{server.url}/a.tar", patience=patience) == DATA
    assert len(pauses) == 1
    assert seconds - 5 <= pauses[0] <= seconds


def test_a_server_that_asks_for_an_hour_is_taken_at_its_word(server: FileServer, patience: Patience) -> None:
    server.faults["/a.tar"] = [Fault(status=503, headers={"Retry-After": "3600"})]
    with pytest.raises(ShardError, match="asks to wait 3600 s"):
        fetched(f"{server.url}/a.tar", patience=patience)


def test_a_host_that_refuses_connections_is_tried_again_and_one_that_is_not_there_is_not(
    patience: Patience, pauses: list[float]
) -> None:
    with file_server() as gone:
        url = gone.url
    with pytest.raises(ShardError, match="given up after 3 tries"):
        look(f"{url}/a.tar", patience=patience)
    assert len(pauses) == 2
    with pytest.raises(ShardError, match="there is no host of that name"):
        look("http://no-such-host.invalid/a.tar", patience=patience)
    assert len(pauses) == 2


@pytest.mark.parametrize("says_length", [True, False])
def test_another_length_than_announced_is_refused_with_both(
    server: FileServer, patience: Patience, pauses: list[float], says_length: bool
) -> None:
    server.says_length = says_length
    found = "600000 bytes" if says_length else "more than 599999 bytes"
    with pytest.raises(ShardError, match=f"has {found} at .* where 599999 were announced"):
        fetched(f"{server.url}/a.tar", 599_999, patience)
    server.says_length = True
    server.faults["/a.tar"] = [Fault(longer_by=5)]
    with pytest.raises(ShardError, match=r"has 600005 bytes at .* where 600000 were announced"):
        fetched(f"{server.url}/a.tar", patience=patience)
    assert pauses == []


def test_a_shard_that_changes_on_the_way_is_never_half_of_each(server: FileServer, patience: Patience) -> None:
    server.faults["/a.tar"] = [Fault(stall_after=300_000)]
    newer = os.urandom(len(DATA))

    def change(pause_s: float) -> None:
        server.files["/a.tar"] = newer

    assert fetched(f"{server.url}/a.tar", patience=replace(patience, sleep=change)) == newer


@pytest.mark.parametrize(
    "fault", [Fault(status=404), Fault(status=403), Fault(status=503), Fault(cut_after=0), Fault(longer_by=9)]
)
def test_no_message_shows_a_secret(server: FileServer, patience: Patience, fault: Fault) -> None:
    server.always["/a.tar"] = fault
    url = server.url.replace("//", "//anna:s3cr%2Ft@") + "/a.tar?X-Amz-Signature=c0ffee&token=hidden"
    for url_ in (url, url.replace("/a.tar", "/none.tar")):
        with pytest.raises(ShardError) as caught:
            fetched(url_, patience=patience)
        assert not [secret for secret in ("anna", "s3cr", "c0ffee", "hidden") if secret in str(caught.value)]
        assert ".tar?..." in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_signed_address_goes_out_letter_by_letter(server: FileServer) -> None:
    server.heads = False
    server.files["/b c.tar"] = DATA
    assert fetched(f"{server.url}/b%20c.tar?sig=a%2Fb%3D%3d+c") == DATA
    assert look(f"{server.url}/b%20c.tar?sig=a%2Fb%3D%3d+c").size == len(DATA)
    assert {request.query for request in server.gets("/b c.tar")} == {"sig=a%2Fb%3D%3d+c"}
    assert look(f"{server.url}/b c.tar").size == len(DATA)


def test_a_package_that_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_opened", {})
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingDependency, match=r"s3:// needs s3fs.*pip install 'viewfold\[remote\]'"):
        look("s3://bucket/a.tar")


def test_memory_is_a_store_too() -> None:
    fsspec.filesystem("memory").pipe("/m/a.tar", DATA)
    assert listing("memory://m/*.tar") == ["memory://m/a.tar"]
    assert (look("memory://m/a.tar").size, fetched("memory://m/a.tar")) == (len(DATA), DATA)
    with pytest.raises(ShardError, match="nothing is there"):
        look("memory://m/b.tar")


def size_seen(url: str) -> int:
    return len(fetched(url)) + look(url).size


@forks
def test_threads_and_forks_of_a_process_that_has_connections_fetch_too(server: FileServer) -> None:
    server.files.update({f"/{n}.tar": DATA for n in range(6)})
    urls = [f"{server.url}/{n}.tar" for n in range(6)]
    assert size_seen(urls[0]) == 2 * len(DATA)
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        assert list(pool.map(size_seen, urls)) == [2 * len(DATA)] * 6
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(size_seen, urls)) == [2 * len(DATA)] * 6


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with s3_server() as url:
        put(f"{url}/bucket")
        for name in ("a-0.tar", "a-1.tar", "notes.txt", "b/a-2.tar"):
            put(f"{url}/bucket/set/{name}", DATA)
        yield url


@forks
def test_s3_serves_looks_listings_and_shards(moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_at(moto, monkeypatch)
    assert listing("s3://bucket/set/a-*.tar") == ["s3://bucket/set/a-0.tar", "s3://bucket/set/a-1.tar"]
    assert listing("s3://bucket/none/*.tar") == []
    facts = look("s3://bucket/set/a-0.tar")
    assert (facts.size, bool(facts.identity)) == (len(DATA), True)
    assert fetched("s3://bucket/set/a-0.tar") == DATA
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        assert pool.submit(size_seen, "s3://bucket/set/a-1.tar").result() == 2 * len(DATA)


def test_an_object_that_changes_between_its_ranges_is_never_half_of_each(
    moto: str, patience: Patience, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_at(moto, monkeypatch)
    old, new = b"o" * (17 << 20), b"n" * (17 << 20)
    put(f"{moto}/bucket/big.tar", old)
    data = bytearray(len(old))

    def write(offset: int, piece: bytes) -> None:
        data[offset : offset + len(piece)] = piece
        if piece[:1] == b"o":
            put(f"{moto}/bucket/big.tar", new)

    fetch("s3://bucket/big.tar", look("s3://bucket/big.tar"), write, patience=patience)
    assert data == new


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3://bucket/set/none.tar", "nothing is there"),
        ("s3://nobucket/a.tar", r"nothing is there \(404 NoSuchBucket\)"),
        ("s3://bucket/set", "is a folder at s3://bucket/set"),
    ],
)
def test_what_s3_does_not_have_is_said_at_once(
    moto: str, url: str, reason: str, pauses: list[float], patience: Patience, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_at(moto, monkeypatch)
    with pytest.raises(ShardError, match=reason):
        look(url, patience=patience)
    assert pauses == []


def test_s3_without_credentials_says_where_they_are_looked_for(moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_at(moto, monkeypatch)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(
        ShardError, match=r"Unable to locate credentials.*AWS_ variables, ~/\.aws and the machine's role"
    ):
        look("s3://bucket/set/a-0.tar", patience=SHORT)


def s3_error(status: int, code: str) -> Fault:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>"
    return Fault(status=status, headers={"Content-Type": "application/xml"}, body=body.encode())


PASSING = [
    s3_error(503, "SlowDown"),
    s3_error(500, "InternalError"),
    s3_error(400, "RequestTimeout"),
    Fault(cut_after=10_000),
    Fault(stall_after=10_000),
]


@pytest.mark.parametrize("fault", PASSING)
def test_s3_is_asked_again_for_what_passes_and_once_at_a_time(
    server: FileServer, fault: Fault, patience: Patience, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_at(server.url, monkeypatch)
    server.files["/bucket/a.tar"] = DATA
    server.faults["/bucket/a.tar"] = [fault, fault]
    assert fetched("s3://bucket/a.tar", patience=patience) == DATA
    assert (len(server.gets("/bucket/a.tar")), len(pauses)) == (3, 2)  # botocore and s3fs try no further by themselves
    server.always["/bucket/a.tar"] = s3_error(403, "AccessDenied")
    with pytest.raises(ShardError, match="access is refused"):
        fetched("s3://bucket/a.tar", patience=patience)
    assert len(pauses) == 2


def as_google(server: FileServer, patch: pytest.MonkeyPatch) -> str:
    """Files at the addresses of Google's storage API; the URL of their folder."""
    about = {"name": "set/a.tar", "bucket": "b", "size": str(len(DATA)), "etag": "CAE=", "generation": "1"}
    server.files["/storage/v1/b/b/o/set/a.tar"] = json.dumps(about).encode()
    server.files["/storage/v1/b/b/o"] = json.dumps({"items": [about]}).encode()
    server.files["/download/storage/v1/b/b/o/set/a.tar"] = DATA
    patch.setitem(fsspec.config.conf, "gs", {"endpoint_url": server.url, "token": "anon"})
    return "gs://b/set"


def as_hub(server: FileServer, patch: pytest.MonkeyPatch) -> str:
    """Files at the addresses of the hub's API; the URL of their folder."""
    about = {"type": "file", "path": "set/a.tar", "oid": "2" * 40, "size": len(DATA)}
    server.files["/api/datasets/o/n"] = json.dumps({"id": "o/n", "sha": "1" * 40}).encode()
    server.files["/api/datasets/o/n/tree/main"] = json.dumps([{**about, "type": "directory", "path": "set"}]).encode()
    server.files["/api/datasets/o/n/tree/main/set"] = json.dumps([about]).encode()
    server.files["/datasets/o/n/resolve/main/set/a.tar"] = DATA
    patch.setitem(fsspec.config.conf, "hf", {"endpoint": server.url, "token": False})
    return "hf://datasets/o/n/set"


@pytest.mark.parametrize("kind", [as_google, as_hub])
def test_the_other_stores_are_addressed_as_their_servers_want(
    kind: Callable[[FileServer, pytest.MonkeyPatch], str], server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_opened", {})
    folder = kind(server, monkeypatch)
    assert look(f"{folder}/a.tar").size == len(DATA)
    assert fetched(f"{folder}/a.tar") == DATA
    assert listing(f"{folder}/*.tar") == [f"{folder}/a.tar"]
    path = next(path for path, data in server.files.items() if data is DATA and path != "/a.tar")
    server.faults[path] = [Fault(status=403)]
    with pytest.raises(ShardError, match="access is refused"):
        fetched(f"{folder}/a.tar")


def test_an_unknown_scheme_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(InvalidInput, match=r"ftp: is not a scheme .* gs://, .* s3://"):
        look("ftp://host/a.tar")


def test_a_failure_that_is_not_of_the_store_is_not_dressed_up(server: FileServer) -> None:
    def write(offset: int, piece: bytes) -> None:
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        fetch(f"{server.url}/a.tar", look(f"{server.url}/a.tar"), write, patience=SHORT)


def test_nothing_is_left_open(server: FileServer, tmp_path: Path) -> None:
    fetched(f"{server.url}/a.tar")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        fetched(f"{server.url}/a.tar")
    assert len(os.listdir("/proc/self/fd")) <= before
