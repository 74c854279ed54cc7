"""The client of OpenAI-compatible servers, against a server on this machine that answers as it is told."""

import email.utils
import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from servers import unanswered

from viewfold.errors import InvalidInput, MissingDependency
from viewfold.retrieval.lmm import API_KEY_VARIABLE, Completion, LMMClient, OpenAIClient, api_key_from_environment
from viewfold.retrieval.prompt import PromptImage, PromptSpec, Shown, answer_schema, build_messages

pytestmark = pytest.mark.heavy  # openai takes a second to import

CLASSES = ["pen", "pencil"]
SPEC = PromptSpec()
IMAGE = PromptImage(b"pixels", "image/png", 8, 8)
SCHEMA = answer_schema(SPEC, CLASSES)
MESSAGES = build_messages(SPEC, CLASSES, [Shown("pen", IMAGE), Shown("pencil", IMAGE)], IMAGE)
KEY = "sk-secret-0123456789"


@dataclass(frozen=True)
class Reply:
    """One answer of the server."""

    status: int = 200
    body: Any = None
    """Sent as JSON; bytes as they are."""
    headers: dict[str, str] = field(default_factory=dict)
    hangs: bool = False
    """Nothing is sent before the client goes away."""
    drops: bool = False
    """The connection is closed without an answer."""


def answered(text: str | None = '{"answer": "pen"}') -> Reply:
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 321, "completion_tokens": 7, "total_tokens": 328}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "served-name", "choices": choices}
    return Reply(body={**body, "usage": usage})


def refused(status: int, message: str, **headers: str) -> Reply:
    return Reply(status, {"error": {"message": message, "type": "x", "code": status}}, headers)


class Server(ThreadingHTTPServer):
    """Gives each request the next of its `replies`, the last one for ever, and records what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.replies: list[Reply] = []
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        self.headers: list[str] = []
        self.times: list[float] = []
        self.released = threading.Event()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        server = self.server
        server.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        server.paths.append(self.path)
        server.keys.append(self.headers["Authorization"])
        server.headers.append(str(self.headers))
        server.times.append(time.monotonic())
        reply = server.replies.pop(0) if len(server.replies) > 1 else server.replies[0]
        if reply.hangs:
            server.released.wait(30)
        if reply.hangs or reply.drops:
            self.close_connection = True
            return
        self._send(reply)

    def do_GET(self) -> None:
        self._send(Reply(body={"object": "list", "data": [{"id": "qwen"}, {"id": "llava"}]}))

    def _send(self, reply: Reply) -> None:
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.released.set()
        running.shutdown()
        thread.join()


def client(server: Server, *, api_key: str | None = KEY, retries: int = 2) -> OpenAIClient:
    return OpenAIClient(server.url, "a-model", api_key=api_key, retries=retries, backoff_s=0.01)


def ask(model: LMMClient, *, timeout_s: float = 20.0) -> Completion:
    return model.complete(MESSAGES, schema=SCHEMA, max_tokens=50, seed=3, timeout_s=timeout_s)


def failure(server: Server, *replies: Reply, **settings: Any) -> str:
    server.replies = list(replies)
    with pytest.raises(InvalidInput) as caught:
        ask(client(server, **settings))
    message = str(caught.value)
    assert "\n" not in message
    assert KEY not in message
    assert message.startswith(server.url)
    return message


def test_the_request_carries_messages_schema_and_settings_and_the_answer_its_cost(server: Server) -> None:
    server.replies = [answered()]
    completion = ask(client(server))
    held = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    assert server.requests == [
        {
            "model": "a-model",
            "messages": MESSAGES,
            "max_tokens": 50,
            "temperature": 0.0,
            "seed": 3,
            "response_format": held,
        }
    ]
    assert (server.paths, server.keys) == (["/v1/chat/completions"], [f"Bearer {KEY}"])
    assert completion == Completion(
        '{"answer": "pen"}', 321, 7, completion.latency_s, model="served-name", constrained=True
    )
    assert completion.latency_s > 0


@pytest.mark.parametrize(
    "trouble", [refused(429, "slow down"), refused(500, "oops"), refused(503, "loading"), Reply(drops=True)]
)
def test_a_busy_or_broken_server_is_asked_again(server: Server, trouble: Reply) -> None:
    server.replies = [trouble, trouble, answered()]
    assert ask(client(server)).text == '{"answer": "pen"}'
    assert len(server.requests) == 3


def test_retries_come_to_an_end(server: Server) -> None:
    assert "the server is busy or broken (500: oops)" in failure(server, refused(500, "oops"))
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 408, 409, 413])
def test_what_will_not_change_is_not_asked_again(server: Server, status: int) -> None:
    failure(server, refused(status, "no"))
    assert len(server.requests) == 1


def test_a_server_that_says_when_to_come_back_is_asked_then(server: Server) -> None:
    server.replies = [refused(429, "wait", **{"Retry-After": "0.3"}), answered()]
    ask(client(server))
    assert server.times[1] - server.times[0] >= 0.3
    past = email.utils.formatdate(time.time() - 60, usegmt=True)
    server.replies = [refused(503, "wait", **{"Retry-After": past}), answered()]
    ask(client(server))
    no_year = "Fri, 01 Jan 99999 00:00:00 GMT"
    server.replies = [refused(503, "wait", **{"Retry-After": no_year}), answered()]
    ask(client(server))


def test_one_that_says_to_come_back_tomorrow_is_not(server: Server) -> None:
    assert "(429: quota)" in failure(server, refused(429, "quota", **{"Retry-After": "86400"}))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "words",
    [
        (400, {"error": {"message": "Unknown parameter: response_format"}}),
        (400, {"object": "error", "message": "json_schema is not supported", "code": 400}),
        (422, {"detail": "Unexpected keys in the request: {'response_format'}"}),
    ],
)
def test_without_response_format_the_server_is_asked_plainly_and_remembered(
    server: Server, words: tuple[int, Any]
) -> None:
    server.replies = [Reply(*words), answered()]
    model = client(server)
    assert [ask(model).constrained, ask(model).constrained] == [False, False]
    assert ["response_format" in request for request in server.requests] == [True, False, False]


def test_a_plain_request_that_is_refused_too_is_an_error(server: Server) -> None:
    message = failure(server, refused(400, "no response_format here"), refused(400, "prompt\n too long"))
    assert message.endswith("the server refuses the request (400: prompt too long)")


def test_a_refused_key_names_its_variable(server: Server) -> None:
    echo = refused(401, f"Incorrect API key provided: {KEY}")
    assert f"check the environment variable {API_KEY_VARIABLE}" in failure(server, echo)
    assert f"set the environment variable {API_KEY_VARIABLE}" in failure(server, echo, api_key=None)
    assert server.keys[-1] == "Bearer none"


def test_a_server_that_repeats_the_key_does_not_get_it_printed(server: Server) -> None:
    assert "bad header Bearer ***" in failure(server, refused(400, f"bad header Bearer {KEY}"))
    assert KEY[:8] not in failure(server, refused(400, "x" * 285 + f" Bearer {KEY} is bad"))  # cut in its middle


def test_a_long_refusal_of_response_format_is_understood_to_its_end(server: Server) -> None:
    server.replies = [refused(400, "x" * 400 + " Unknown parameter: response_format"), answered()]
    assert not ask(client(server)).constrained


def test_a_server_s_words_cannot_act_on_a_terminal(server: Server) -> None:
    assert r"(400: \x1b]0;owned\x07)" in failure(server, refused(400, "\x1b]0;owned\x07"))


def test_half_a_character_in_an_answer_is_replaced(server: Server) -> None:
    server.replies = [answered('{"answer": "pen \ud83d"}')]
    assert ask(client(server)).text == '{"answer": "pen ?"}'


def test_secrets_for_another_server_are_not_sent_to_this_one(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer foreign\nX-Team: foreign\nHost: foreign")
    for name in ("ORG_ID", "PROJECT_ID", "ADMIN_KEY", "API_KEY"):
        monkeypatch.setenv(f"OPENAI_{name}", "foreign")
    server.replies = [answered()]
    for key in (KEY, None):
        ask(client(server, api_key=key))
    assert server.keys == [f"Bearer {KEY}", "Bearer none"]
    assert "foreign" not in "".join(server.headers)


def test_an_unknown_model_is_answered_with_those_that_are_there(server: Server) -> None:
    message = failure(server, refused(404, "The model `a-model` does not exist."))
    assert "no model 'a-model' there" in message
    assert message.endswith("it serves qwen, llava")


def test_too_many_images_name_the_flag(server: Server) -> None:
    message = failure(server, refused(400, "At most 1 image(s) may be provided in one prompt."))
    assert "takes at most 1 images in a prompt, this one has 3" in message
    assert """--limit-mm-per-prompt '{"image": 3}'""" in message


def test_a_slow_server_is_given_up_after_the_time_allowed(server: Server) -> None:
    server.replies = [Reply(hangs=True)]
    with pytest.raises(InvalidInput, match=r"no answer within 0\.2 s; allow more time"):
        ask(client(server), timeout_s=0.2)
    assert len(server.requests) <= 1  # none where the server was slow to accept, too


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(body=b'{"choices": [{"mess'), "the answer is not JSON"),
        (Reply(body=b"<html>hello</html>", headers={"Content-Type": "text/html"}), "no chat completion"),
        (Reply(body={}), "no chat completion"),
        (Reply(body=[]), "no chat completion"),
        (Reply(body={"choices": [{"message": {"content": 5}}]}), "no chat completion"),
    ],
)
def test_an_answer_that_is_none_is_refused(server: Server, reply: Reply, reason: str) -> None:
    assert reason in failure(server, reply)


def test_a_model_that_says_nothing_gives_empty_text(server: Server) -> None:
    server.replies = [answered(None)]
    assert ask(client(server)).text == ""


def test_an_address_where_nobody_listens_is_said_to_be_one() -> None:
    with unanswered() as address:
        model = OpenAIClient(f"http://{address}", "a-model", retries=1, backoff_s=0.01)
        with pytest.raises(InvalidInput, match=rf"http://{address}/v1: cannot reach a server there \(.*refused.*\)"):
            ask(model)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://x",
        "http://",
        "http://user:pw@host/v1",
        "http://user:pw@[::1/v1",
        "http://[::1/v1",
        "http://host:abc/v1",
        "http://ho\x00st/v1",
        f"http://{'x' * 64}\u00e9/v1",
    ],
)
def test_what_is_no_address_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"not an address of a server|holds a password") as caught:
        OpenAIClient(url, "a-model")
    assert "pw" not in str(caught.value)


def test_the_key_comes_from_its_variable_and_a_broken_one_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, f" {KEY}\n")
    assert api_key_from_environment() == KEY
    monkeypatch.setenv(API_KEY_VARIABLE, "")
    assert api_key_from_environment() is None
    with pytest.raises(InvalidInput, match="characters that no key has") as caught:
        OpenAIClient("http://localhost", "a-model", api_key="s\u00e9cret")
    assert "cret" not in str(caught.value)


def test_without_the_package_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingDependency, match=r"pip install 'viewfold\[lmm\]'"):
        OpenAIClient("http://localhost", "a-model")
