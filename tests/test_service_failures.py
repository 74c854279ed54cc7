"""Errors as answers."""

import asyncio
import base64
import copy
import io
import os
import sys
import threading
from typing import Any

import orjson
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from served import LOCAL, Thumbnails, built, opened, picture
from starlette.types import Message

from viewfold.errors import ArtifactMismatch, InvalidInput, MissingDependency, ShardError
from viewfold.retrieval import IndexBundle
from viewfold.retrieval.service.app import make_app
from viewfold.retrieval.service.backend import NotReady, Overloaded
from viewfold.retrieval.service.config import ServiceConfig
from viewfold.retrieval.service.failures import Forbidden, NotFound, TooLarge, Unauthorized, failure_of
from viewfold.retrieval.service.local import LocalBackend
from viewfold.retrieval.service.log import write_line


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidInput("x"), 422, "invalid_input"),
        (ArtifactMismatch("x"), 422, "invalid_input"),
        (ShardError("a", "x"), 422, "invalid_input"),
        (TooLarge("x"), 413, "too_large"),
        (NotFound("x"), 404, "not_found"),
        (Unauthorized("x"), 401, "unauthorized"),
        (Forbidden("x"), 403, "forbidden"),
        (NotReady("x"), 503, "not_ready"),
        (Overloaded("x", 7), 503, "overloaded"),
        (MissingDependency("x"), 501, "not_installed"),
    ],
)
def test_an_error_raised_on_purpose_says_its_sentence(error: Exception, status: int, code: str) -> None:
    failure = failure_of(error)
    assert (failure.status, failure.code, failure.message) == (status, code, str(error))
    assert ("Retry-After" in dict(failure.headers)) == (status == 503)


def test_overload_says_when_to_come_back_and_survives_a_process_border() -> None:
    error = copy.copy(Overloaded("full", 7))
    assert dict(failure_of(error).headers) == {"Retry-After": "7"}
    assert (str(error), error.retry_after_s) == ("full", 7)


def test_any_other_error_says_nothing_of_itself() -> None:
    failure = failure_of(RuntimeError("/secret/path and a key"))
    assert (failure.status, failure.code) == (500, "internal")
    assert "secret" not in failure.message


class Failing(Thumbnails):
    """Works when it is checked, and never again."""

    def __call__(self, images):  # type: ignore[no-untyped-def]
        if self.calls:
            raise RuntimeError("/secret/path")
        return super().__call__(images)


def test_a_failure_inside_is_logged_with_its_trace_and_answered_without(
    bundle: IndexBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = LocalBackend(lambda _: opened(bundle, Failing()))
    backend.load()
    api = TestClient(make_app(backend, ServiceConfig()), base_url=LOCAL)
    answer = api.post("/v1/embed", content=picture("red", 1), headers={"Content-Type": "image/png"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert "secret" not in answer.text
    assert answer.headers["X-Request-Id"] == answer.json()["error"]["request_id"]
    assert "RuntimeError: /secret/path" in capsys.readouterr().err


BODY = orjson.dumps({"image": base64.b64encode(picture("red", 1)).decode()})


def left(app: FastAPI, messages: list[dict[str, Any]]) -> list[Message]:
    """What is sent to somebody who sends these messages and goes."""
    sent: list[Message] = []
    incoming = iter(messages)

    async def receive() -> Message:
        return next(incoming, {"type": "http.disconnect"})

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/embed", "headers": headers, "query_string": b""}
    asyncio.run(asyncio.wait_for(app({**scope, "root_path": "", "scheme": "http"}, receive, send), 10))
    return sent


def test_who_goes_before_all_is_said_is_no_failure_of_the_service(
    bundle: IndexBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = LocalBackend(lambda _: opened(bundle))
    backend.load()
    app = make_app(backend, ServiceConfig())
    assert left(app, [{"type": "http.request", "body": BODY[:20], "more_body": True}]) == []
    line = orjson.loads(capsys.readouterr().err)
    assert (line["status"], "trace" in line) == (499, False)


class Waiting(Thumbnails):
    """Makes its callers wait, once it is checked, until `go` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def __call__(self, images: Any) -> Any:
        if self.calls:
            assert self.go.wait(10)
        return super().__call__(images)


def test_a_request_whose_sender_has_gone_is_given_up_and_the_next_one_is_answered(
    bundle: IndexBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    encode = Waiting()
    backend = LocalBackend(lambda _: opened(bundle, encode))
    backend.load()
    app = make_app(backend, ServiceConfig())
    try:
        assert left(app, [{"type": "http.request", "body": BODY}]) == []  # and nothing was waited for
    finally:
        encode.go.set()
    assert orjson.loads(capsys.readouterr().err)["status"] == 499
    api = TestClient(app, base_url=LOCAL)
    assert api.post("/v1/embed", content=BODY, headers={"Content-Type": "application/json"}).status_code == 200


def test_before_anything_is_loaded_the_service_lives_and_is_not_ready(bundle: IndexBundle) -> None:
    backend = LocalBackend(lambda _: opened(bundle))
    api = TestClient(make_app(backend, ServiceConfig()), base_url=LOCAL)
    assert api.get("/healthz").status_code == 200
    assert api.get("/metrics").status_code == 200
    for path in ("/readyz", "/v1/indexes", "/v1/map", "/v1/records/a"):
        answer = api.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
        assert "X-Pair-Id" not in answer.headers
    assert api.post("/v1/admin/reload").status_code == 200
    assert api.get("/readyz").status_code == 200


def test_the_frameworks_own_refusals_have_the_same_form(bundle: IndexBundle) -> None:
    backend = LocalBackend(lambda _: opened(bundle))
    api = TestClient(make_app(backend, ServiceConfig()), base_url=LOCAL)
    for method, path, status in [("GET", "/v1/search", 405), ("GET", "/docs", 404), ("GET", "/v1/map?limit=a", 422)]:
        answer = api.request(method, path)
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"code", "message", "request_id"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> IndexBundle:
    return built(tmp_path_factory.mktemp("served") / "bundle")


def test_a_line_that_nobody_reads_any_more_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    closed = io.StringIO()
    closed.close()
    with open(writes, "w", buffering=1) as broken:
        for stream in (broken, closed, None):
            monkeypatch.setattr(sys, "stderr", stream)
            write_line(path="/v1/indexes")
        with pytest.raises(BrokenPipeError):
            broken.write("it is broken\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), writes)  # for what is left in the buffer
    kept = io.StringIO()
    monkeypatch.setattr(sys, "stderr", kept)
    write_line(path="/v1/indexes")
    assert orjson.loads(kept.getvalue())["path"] == "/v1/indexes"
