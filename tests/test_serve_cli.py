"""`viewfold serve` as a person meets it: one line when it is ready, one line when it cannot be, a quiet end."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from indexed_run import stored, write_run
from serve_process import question, service
from test_cli import refused
from tiny import write_images

from viewfold.errors import InvalidInput
from viewfold.jobs.serve import address, bound
from viewfold.jobs.serve_open import open_source
from viewfold.retrieval.service.local import Opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, and a run with an index of them."""
    folder = tmp_path_factory.mktemp("serve")
    write_run(folder / "run", write_images(folder / "shards", samples=12))
    return folder


@pytest.fixture(scope="module")
def opened(folder: Path) -> Opened:
    return open_source(str(folder / "run"), folder)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def images(folder: Path, opened: Opened) -> dict[str, bytes]:
    shards = sorted((folder / "shards").glob("*.tar"))
    return {record["key"]: stored(shards, record) for record in opened.bundle.records.to_pylist()}


def test_the_encoder_gives_the_vectors_of_the_index_and_says_which_files_are_no_images(
    folder: Path, opened: Opened
) -> None:
    files = images(folder, opened)
    answers = opened.encode([*files.values(), b"no image", b""])
    for key, vector in zip(files, answers[:-2], strict=True):
        (row,) = opened.bundle.by_key.rows([key])
        assert not isinstance(vector, InvalidInput)
        stored_vector = opened.bundle.exact().take(row)[0]
        np.testing.assert_allclose(vector / np.linalg.norm(vector), stored_vector, atol=1e-5)
    assert all(isinstance(answer, InvalidInput) for answer in answers[-2:])
    assert all(isinstance(answer, InvalidInput) for answer in opened.encode([b"none at all"]))
    assert (opened.encode.id, opened.encode.size) == (opened.bundle.info.encoder_id, 16)


def test_what_no_folder_can_be_named_is_refused_like_any_other_bad_source(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be opened: File name too long"):
        open_source("x" * 5000, folder)


def test_images_are_those_of_the_shards(folder: Path, opened: Opened) -> None:
    assert opened.image_of is not None
    assert {key: opened.image_of(key) for key in images(folder, opened)} == images(folder, opened)


def test_a_port_that_is_taken_is_one_line(taken: int, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "serve", str(folder / "run"), "--port", str(taken))
    assert f"port {taken} of 127.0.0.1 is taken" in line


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["nowhere"], "not a run folder"),
        (["run", "--host", "0.0.0.0"], "keys"),
        (["run", "--host", "not a host"], "no such address"),
        (["run", "--host", "192.0.2.1", "--keys", "keys.txt"], "not an address of this machine"),
        (["run", "servic.limits.max_k=3"], "did you mean 'service'"),
        (["run", "service.limits.max_k=0"], "max_k must lie in"),
        (["run", "watch_s=-1"], "watch_s must lie in"),
        (["run", "--print-config"], "--ray"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    words: list[str],
    reason: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("VIEWFOLD_SERVICE_KEYS", raising=False)
    (folder / "keys.txt").write_text("a key that is long enough to be one\n", encoding="utf-8")
    assert reason in refused(capsys, "serve", *words, "--port", "0")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_the_address_that_is_printed_can_be_connected_to(host: str) -> None:
    try:
        with bound(host, 0) as listener:
            listener.listen()
            assert address(listener).startswith("http://[::1]:" if host == "::1" else "http://127.0.0.1:")
            with socket.create_connection(listener.getsockname()[:2]):
                pass
    except InvalidInput as error:
        if host != "::1":
            raise
        pytest.skip(f"no IPv6 here: {error}")


def ask(url: str, body: dict[str, Any], **headers: str) -> tuple[int, dict[str, Any]]:
    headers["Content-Type"] = "application/json"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


@pytest.mark.heavy
@pytest.mark.slow
def test_it_answers_by_key_says_where_and_ends_quietly_when_told_to(folder: Path, tmp_path: Path) -> None:
    keys, log = tmp_path / "keys.txt", tmp_path / "log.txt"
    keys.write_text("a-key-that-is-long-enough-to-be-one\n", encoding="utf-8")
    words = ["--keys", str(keys), "service.limits.max_k=5", "service.select.k=2"]
    with service(folder / "run", words, log=log) as running:
        assert running.line.startswith(f"viewfold serves {folder / 'run'} (12 images, index ")
        body = {"vector": question(0, 256).tolist()}
        url = f"{running.url}/v1/demonstrations"
        key = {"Authorization": "Bearer a-key-that-is-long-enough-to-be-one"}
        assert ask(url, body)[0] == 401
        status, answer = ask(url, body, **key)
        assert (status, len(answer["demonstrations"]["items"])) == (200, 2)
        assert ask(url, {**body, "k": 6}, **key)[0] == 422
        assert running.end() == 0
    assert "Traceback" not in log.read_text(encoding="utf-8")


@pytest.mark.heavy
@pytest.mark.slow
def test_requests_that_have_begun_are_finished_before_the_end(folder: Path, tmp_path: Path) -> None:
    with service(folder / "run", log=tmp_path / "log.txt") as running:
        host, port = running.url.removeprefix("http://").split(":")
        body = json.dumps({"vector": question(0, 256).tolist()}).encode()
        head = (
            f"POST /v1/demonstrations HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(head.encode() + body[:100])
            with pytest.raises(urllib.error.HTTPError):  # an answer: what was sent above has reached the server too
                urllib.request.urlopen(f"{running.url}/no-such-page", timeout=60)
            ending = threading.Thread(target=running.end)
            ending.start()
            threading.Event().wait(0.5)
            connection.sendall(body[100:])
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        ending.join(60)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert running.process.returncode == 0


@pytest.mark.heavy
@pytest.mark.slow
def test_told_to_end_before_it_answers_it_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "viewfold.cli", "serve", "models:/shapes@champion", "--port", "0"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(120)
        server = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with subprocess.Popen(
            [*command, "--home", str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "MLFLOW_TRACKING_URI": server},
        ) as process:
            try:
                with silent.accept()[0]:  # it asks what to serve, and gets no answer
                    process.send_signal(signal.SIGTERM)
                    told, line = process.communicate(timeout=60)
            finally:
                process.kill()
    assert (process.returncode, told) == (143, "")
    assert line.startswith("terminated; ")
    assert line.count("\n") == 1
