"""The suite of the service, tiny: its load generator, its servers and its rows."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from benchmarks.load import Target, closed_loop, open_loop, requests_of
from benchmarks.peers import left_out, python_with
from benchmarks.retrieval import KEPT
from benchmarks.serve import (
    PEER,
    K,
    Scale,
    clip_rows,
    facts,
    image_rows,
    made_run,
    vector_bodies,
    vector_rows,
    write_run,
)
from benchmarks.served import served

TINY = Scale(
    rows=600,
    factory="IVF8,Flat",
    queries=16,
    connections=4,
    rate=20.0,
    seconds=0.5,
    image_seconds=0.5,
    warmup_s=0.1,
    backbones=("resnet-small",),
    image_rows=600,
    image_factory="Flat",
    image_px=16,
    file_px=64,
)
PAUSE_S = 0.02


class Slow(BaseHTTPRequestHandler):
    """Answers after a pause, one at a time; every third answer is a refusal."""

    protocol_version = "HTTP/1.1"
    one_at_a_time = threading.Lock()
    count = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.one_at_a_time:
            time.sleep(PAUSE_S)
            Slow.count += 1
            self.send_response(422 if Slow.count % 3 == 0 else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def slow_server(bodies: Path, connections: int) -> Iterator[Target]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield Target(port=server.server_address[1], path="/any", bodies=bodies, connections=connections)
        server.shutdown()
        thread.join()


@pytest.fixture
def bodies(tmp_path: Path) -> Path:
    (tmp_path / "bodies.jsonl").write_text('{"a": 1}\n{"b": 22}\n')
    return tmp_path / "bodies.jsonl"


def test_a_request_is_whole(bodies: Path) -> None:
    first, second = requests_of(Target(port=80, path="/x", bodies=bodies, connections=1))
    assert first.startswith(b"POST /x HTTP/1.1\r\n")
    assert first.endswith(b'Content-Length: 8\r\n\r\n{"a": 1}')
    assert second.endswith(b'Content-Length: 9\r\n\r\n{"b": 22}')


def test_a_closed_loop_counts_answers_and_refusals(bodies: Path) -> None:
    with slow_server(bodies, connections=2) as target:
        load = closed_loop(target, 0.4, 0.1)
    assert load.failures > 0
    assert len(load.latencies_s) > load.failures
    assert load.per_s < 1 / PAUSE_S
    assert load.quantile_ms(0.5) >= 1e3 * PAUSE_S


def test_an_open_loop_counts_from_when_a_request_was_due(bodies: Path) -> None:
    with slow_server(bodies, connections=16) as target:
        load = open_loop(target, 100.0, 0.6, 0.0)  # twice what the server can do: the queue grows
    assert len(load.latencies_s) + load.failures == 60
    assert load.quantile_ms(1.0) > 3e3 * PAUSE_S
    assert load.quantile_ms(1.0) > 3 * min(load.latencies_s) * 1e3 / 2


def test_both_services_are_asked_with_the_same_vectors(tmp_path: Path) -> None:
    ours, theirs = (
        [json.loads(line) for line in vector_bodies(tmp_path / "bodies", TINY, clip=clip).read_text().splitlines()]
        for clip in (False, True)
    )
    assert [body["vector"] for body in ours] == [body["embedding_input"] for body in theirs]
    assert {body["k"] for body in ours} == {body["num_images"] for body in theirs} == {K}
    assert len(ours) == TINY.queries


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve") / "run"
    write_run(folder, "resnet-small", TINY.factory, TINY.rows, TINY)
    return folder


def test_a_run_that_was_kept_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "resnet-small-16px-IVF8_Flat-600"
    kept.mkdir()
    monkeypatch.setenv(KEPT, str(tmp_path))
    with made_run("resnet-small", TINY.factory, TINY.rows, TINY) as run:
        assert run == kept
    assert list(tmp_path.iterdir()) == [kept]
    assert not list(kept.iterdir())


@pytest.mark.heavy
@pytest.mark.slow
def test_the_suite_gives_its_names_and_says_what_it_left_out(run: Path) -> None:
    with served(run) as port:
        made = [*vector_rows(run, port, TINY, 1), *image_rows(run, port, "resnet-small", TINY, 1)]
    assert [row["name"] for row in made] == [
        "vector_requests_per_s",
        "vector_p99_ms_at_200",
        "batching_gain",
        "batch32_overhead_vs_bare",
    ]
    assert all(np.isfinite(row["value"]) and row["value"] > 0 for row in made)
    assert not any(row.get("failures") for row in made)
    assert left_out("vs_clip_retrieval", PEER) in facts(made)["notes"]


@pytest.mark.heavy
@pytest.mark.slow
@pytest.mark.skipif(python_with(PEER) is None, reason=left_out(PEER, PEER))
def test_the_real_backend_of_clip_retrieval_answers_the_same_requests(run: Path) -> None:
    with served(run) as port:
        made = list(clip_rows(run, port, TINY, 1, str(python_with(PEER))))
    assert [row["name"] for row in made] == ["vs_clip_retrieval"] * 2
    assert all(row["value"] > 0 for row in made)
