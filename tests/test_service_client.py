"""The Python client, beside the library that it stands for, and before a server that is busy or is none."""

import base64
import dataclasses
import pickle
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from served import backend, built, images, picture, serving, vector_of

from viewfold.errors import InvalidInput
from viewfold.retrieval import Client, DemoSet, FilterConfig, IndexBundle, Query, SelectConfig, ServiceError, select
from viewfold.retrieval.client import Settings
from viewfold.retrieval.client_bodies import parts, query_body
from viewfold.retrieval.service.config import LimitsConfig, ServiceConfig
from viewfold.retrieval.service.schemas import SettingsBody

Answer = tuple[int, dict[str, str], bytes]
KEY = "a-key-of-sixteen-or-more"
KEYS = sorted(images())
KNOWN = KEYS[5]
NEW = picture("red", 30)


class Answers(BaseHTTPRequestHandler):
    """Sends the answers that are left, the last one again and again; a status of 0 closes the connection.

    `lengths` are those of the bodies that came; `delay_s` goes by before each answer.
    """

    protocol_version = "HTTP/1.1"
    left: ClassVar[list[Answer]] = []
    lengths: ClassVar[list[int]] = []
    delay_s: ClassVar[float] = 0.0

    def do_POST(self) -> None:
        self.lengths.append(len(self.rfile.read(int(self.headers["Content-Length"]))))
        self.do_GET()

    def do_GET(self) -> None:
        time.sleep(self.delay_s)
        status, headers, body = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        if not status:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def answering(*answers: Answer, delay_s: float = 0.0, lengths: list[int] | None = None) -> Iterator[str]:
    """A server that gives these answers in turn."""
    told = {"left": list(answers), "delay_s": delay_s, "lengths": [] if lengths is None else lengths}
    handler = type("Handler", (Answers,), told)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


BUSY: Answer = (503, {"Retry-After": "0"}, b'{"error": {"code": "overloaded", "message": "full", "request_id": "r1"}}')
FINE: Answer = (200, {}, b'{"indexes": []}')


def test_every_setting_of_the_service_can_be_given() -> None:
    # `format` and `explain` choose between answers, for which the client has methods.
    names = {field.name for field in dataclasses.fields(SettingsBody)} - {"format", "explain"}
    assert Settings.__optional_keys__ == names


def test_a_busy_service_is_asked_again() -> None:
    with answering(BUSY, BUSY, FINE) as url, Client(url) as client:
        assert client.indexes() == []


def test_a_service_that_stays_busy_is_given_up_with_its_own_sentence() -> None:
    with answering(BUSY) as url, Client(url, retries=1) as client, pytest.raises(ServiceError, match=r"^full$") as told:
        client.indexes()
    assert (told.value.status, told.value.code, told.value.request_id) == (503, "overloaded", "r1")
    copy = pickle.loads(pickle.dumps(told.value))
    assert (str(copy), copy.status, copy.code) == ("full", 503, "overloaded")


def test_a_pause_of_an_hour_is_not_waited_out() -> None:
    later = (429, {"Retry-After": "3600"}, b"{}")
    with answering(later) as url, Client(url) as client, pytest.raises(ServiceError, match="answered with 429"):
        client.indexes()


def test_a_request_that_took_too_long_is_not_sent_again() -> None:
    late: Answer = (504, {}, b'{"error": {"code": "timeout", "message": "longer than 30 s", "request_id": "r2"}}')
    with answering(late, FINE) as url, Client(url) as client, pytest.raises(ServiceError, match=r"^longer") as told:
        client.indexes()
    assert (told.value.status, told.value.code) == (504, "timeout")


def test_a_reload_has_a_time_of_its_own() -> None:
    with answering(FINE, delay_s=1.0) as url, Client(url, timeout_s=0.02) as client:
        assert client.reload() == {"indexes": []}
        with pytest.raises(ServiceError, match=r"no answer within 0\.02 s"):
            client.indexes()  # on the connection that the reload left open
        with pytest.raises(ServiceError, match=r"no answer within 0\.01 s"):
            client.reload(timeout_s=0.01)


def test_a_connection_that_was_closed_while_it_lay_idle_is_opened_again() -> None:
    with answering(FINE, (0, {}, b""), FINE) as url, Client(url) as client:
        assert client.indexes() == client.indexes() == []


def test_a_connection_that_another_thread_took_first_is_not_missed() -> None:
    class Taken(deque[HTTPConnection]):
        """Held one when it was asked, and gave it to another thread then."""

        def __bool__(self) -> bool:
            return True

    with answering(FINE) as url, Client(url) as client:
        client._connection._idle = Taken()
        assert client.indexes() == []


def test_a_server_of_something_else_is_told_from_the_service() -> None:
    page: Answer = (200, {}, b"<html>")
    with answering(page) as url, Client(url) as client, pytest.raises(ServiceError, match="the answer is not JSON"):
        client.indexes()
    older: Answer = (200, {}, b'{"demonstrations": {"items": []}}')
    with answering(older) as url, Client(url) as client, pytest.raises(ServiceError, match="has no 'query_id'"):
        client.demonstrations([1.0])
    with Client("http://127.0.0.1:9", retries=0) as client, pytest.raises(ServiceError, match="cannot reach"):
        client.indexes()


def test_what_cannot_be_sent_is_refused_here() -> None:
    for url in ("127.0.0.1:8000", "ftp://here", "http://name:word@here", "http://[::1", "http://here:99999"):
        with pytest.raises(InvalidInput, match="not an address of a service"):
            Client(url)
    with pytest.raises(InvalidInput, match="characters that no key has"):
        Client("http://here", key="line\nend")
    client = Client("http://here")
    with pytest.raises(InvalidInput, match="finite"):
        client.demonstrations([1.0, float("nan")])
    with pytest.raises(InvalidInput, match=r"shape \(1, 2\)"):
        client.demonstrations(np.ones((1, 2)))
    for path in (Path("nowhere.png"), "nowhere.png", ".", "a\0b", "iVBORw0KGgo" * 1000):
        with pytest.raises(InvalidInput, match="give the path of an image, or its bytes") as told:
            client.demonstrations(path)
        assert len(str(told.value)) < 400
    for one in ("query.png", b"bytes", Path("query.png")):
        with pytest.raises(InvalidInput, match="images is a list"):
            client.embed(one)  # type: ignore[arg-type]


def test_an_image_is_given_by_its_bytes_or_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"an image")
    sent = {"image": base64.b64encode(b"an image").decode()}
    assert query_body(str(tmp_path / "a.png")) == query_body(tmp_path / "a.png") == query_body(b"an image") == sent


def test_a_part_is_full_by_its_number_of_items_or_by_their_bytes() -> None:
    items = ["a", "b", "c", "d" * 9, "e" * 30, "f", "g"]
    assert list(parts(items, 2, 10)) == [["a", "b"], ["c", "d" * 9], ["e" * 30], ["f", "g"]]
    assert list(parts(items, 9, 1000)) == [items]
    assert list(parts(list[str](), 2)) == []
    queries = [{"id": "q", "vector": [0.5] * 10}] * 3
    assert list(map(len, parts(queries, 9, 2 * 261))) == [2, 1]


def test_an_image_is_read_when_its_part_is_sent() -> None:
    read: list[str] = []

    def images() -> Iterator[str]:
        for name in "abcdef":
            read.append(name)
            yield name

    cut = parts(images(), 2)
    assert next(cut) == ["a", "b"]
    assert read == ["a", "b", "c"]


@pytest.mark.slow
def test_photographs_go_out_in_bodies_that_a_service_takes() -> None:
    lengths: list[int] = []
    nothing: Answer = (200, {}, b'{"results": []}')
    with answering(nothing, lengths=lengths) as url, Client(url) as client:
        client.embed([bytes(5 * 2**20)] * 3)
    assert len(lengths) == 3
    assert max(lengths) < LimitsConfig().max_body_bytes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("client") / "bundle"
    built(made)
    return made


@pytest.fixture(scope="module")
def client(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY + "\n")
    settings = ServiceConfig(keys_file=str(keys), limits=LimitsConfig(max_batch=5))
    with serving(backend(folder), settings) as url, Client(url, key=KEY, batch=5) as asking:
        yield asking


def query(number: int) -> Query:
    vector = vector_of(images()[KEYS[number % len(KEYS)]])
    return Query(f"q-{number}", vector.astype(np.float64), group=f"group-{number // 2}")


@pytest.mark.heavy
def test_the_client_answers_as_the_library_does(client: Client, folder: Path) -> None:
    queries = [query(number) for number in range(12)]  # more than the service takes at a time
    filters = FilterConfig(domains=("paper",))
    expected = select(IndexBundle.open(folder), queries, SelectConfig(k=4, filters=filters, seed=3))
    assert client.demonstrations(queries[0], k=4, filters=filters, seed=3) == expected[0]
    assert client.demonstrations_batch(queries, k=4, filters={"domains": ["paper"]}, seed=3) == expected


@pytest.mark.heavy
def test_an_image_is_asked_about_by_its_bytes_and_by_its_path(client: Client, tmp_path: Path) -> None:
    (tmp_path / "new.png").write_bytes(NEW)
    demos = client.demonstrations(tmp_path / "new.png", k=3)
    assert isinstance(demos, DemoSet)
    assert demos.items == client.demonstrations(NEW, k=3).items
    assert demos.excluded["sha256"] == 0
    assert client.demonstrations(images()[KNOWN], k=3).excluded["sha256"] == 1


@pytest.mark.heavy
def test_search_embed_records_and_messages(client: Client) -> None:
    (vector,) = client.embed([images()[KNOWN]])
    assert not isinstance(vector, ServiceError)
    np.testing.assert_allclose(vector, query(5).vector, atol=1e-6)
    (hits,) = client.search([vector], k=3)
    assert not isinstance(hits, ServiceError)
    assert (hits[0].key, hits[0].score, len(hits)) == (KNOWN, 1.0, 3)
    assert client.record(KNOWN)["label"] == hits[0].label
    assert client.thumbnail(KNOWN).startswith(b"\xff\xd8")
    prompt = client.messages(NEW, k=2, task="Count the dots.")
    assert len(prompt.keys) == 3
    assert prompt.cost.images == 3
    assert client.indexes()[0]["pair"]["bundle"]["n"] == 12


@pytest.mark.heavy
def test_a_bad_image_has_its_error_in_its_place(client: Client) -> None:
    good, bad = client.embed([NEW, b"no image"])
    assert not isinstance(good, ServiceError)
    assert isinstance(bad, ServiceError)
    assert "not an image" in str(bad)
    assert [type(found) for found in client.search([b"no image", NEW])] == [ServiceError, list]
    assert [type(found) for found in client.demonstrations_batch([NEW, b"no"])] == [DemoSet, ServiceError]


@pytest.mark.heavy
def test_refusals_say_what_the_service_says(client: Client) -> None:
    with pytest.raises(ServiceError, match=r"did you mean 'paper'") as told:
        client.demonstrations(query(0), filters={"domains": ["papre"]})
    assert told.value.status == 422
    assert told.value.request_id
    with pytest.raises(ServiceError, match="no such image"):
        client.record("../nothing?x=1#y")
    with pytest.raises(ServiceError) as told, Client(client._connection._url, key="another-key-of-sixteen") as other:
        other.indexes()
    assert told.value.status == 401


@pytest.mark.heavy
def test_threads_share_a_client(client: Client) -> None:
    queries = [query(number) for number in range(16)]
    alone = [client.demonstrations(one, k=3) for one in queries]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda one: client.demonstrations(one, k=3), queries)) == alone


@pytest.mark.heavy
def test_another_index_is_loaded_and_a_bad_one_refused(folder: Path, tmp_path: Path) -> None:
    built(tmp_path / "other", count=10)
    settings = ServiceConfig(reload_sources=(f"{tmp_path}/*",))
    with serving(backend(folder), settings) as url, Client(url) as own:
        answer = own.reload(str(tmp_path / "other"))
        assert (answer["changed"], answer["pair"]["bundle"]["n"]) == (True, 10)
        with pytest.raises(ServiceError, match="nowhere"):
            own.reload(str(tmp_path / "nowhere"))
        assert own.indexes()[0]["pair"]["bundle"]["n"] == 10
