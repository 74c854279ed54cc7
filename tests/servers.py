"""Servers that tests start: one of files over HTTP that fails as it is told, and moto's of S3."""

import re
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import Request as UrlRequest
from urllib.request import urlopen

_PIECE = 16 << 10


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong with one answer."""

    status: int = 0
    """Answer this instead of the file."""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut_after: int | None = None
    """Close the connection after so many bytes of the body."""
    stall_after: int | None = None
    """Send so many bytes, and the rest only when `server.released` is set."""
    longer_by: int = 0
    """Content-Length says so many more than are sent."""


class Request(NamedTuple):
    """What was asked."""

    method: str
    path: str
    range: str
    query: str


class FileServer(ThreadingHTTPServer):
    """Serves `files`; each GET of a path takes the next of its `faults`, and when there is none goes well."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.always: dict[str, Fault] = {}
        """What goes wrong with every answer, HEAD too."""
        self.heads = True
        """Whether HEAD is answered; the signature of a signed address is for GET alone."""
        self.ranges = True
        self.says_length = True
        self.piece_pause_s = 0.0
        self.requests: list[Request] = []
        self.stalled = threading.Event()
        self.released = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: clients give up, and are killed."""

    def gets(self, path: str) -> list[Request]:
        """The GET requests of a path so far."""
        return [request for request in self.requests if request[:2] == ("GET", path)]


@contextmanager
def file_server() -> Iterator[FileServer]:
    """A file server on a free port of this machine."""
    with FileServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each small answer waits 40 ms for the last one's acknowledgement
    server: FileServer

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def _answer(self) -> None:
        server, url = self.server, urlsplit(self.path)
        path = unquote(url.path)
        server.requests.append(Request(self.command, path, self.headers.get("Range", ""), url.query))
        fault = server.always.get(path)
        if fault is None and self.command == "GET" and server.faults[path]:
            fault = server.faults[path].pop(0)
        fault = fault or Fault()
        if self.command == "HEAD" and not server.heads:
            self._send(403, {}, b"", Fault())
        elif path.endswith("/"):
            links = "".join(f'<a href="{name}">x</a>' for name in server.files if name.startswith(path))
            self._send(200, {"Content-Type": "text/html"}, links.encode(), fault)
        elif fault.status:
            self._send(fault.status, fault.headers, fault.body, Fault())
        elif path not in server.files:
            self._send(404, {}, b"", Fault())
        else:
            self._send_file(server.files[path], fault)

    def _send_file(self, data: bytes, fault: Fault) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if self.server.ranges else None
        headers = {"ETag": f'"{md5(data).hexdigest()}"', **fault.headers}
        if asked is None:
            self._send(200, headers, data, fault)
            return
        first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self._send(206, headers, data[first : last + 1], fault)

    def _send(self, status: int, headers: dict[str, str], body: bytes, fault: Fault) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.server.says_length or self.command == "HEAD":
            self.send_header("Content-Length", str(len(body) + fault.longer_by))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "GET":
            self._send_body(body, fault)

    def _send_body(self, body: bytes, fault: Fault) -> None:
        if fault.stall_after is not None:
            self.wfile.write(body[: fault.stall_after])
            self.server.stalled.set()
            self.server.released.wait()
            body = body[fault.stall_after :]
        whole = body if fault.cut_after is None else body[: fault.cut_after]
        for start in range(0, len(whole), _PIECE):
            self.wfile.write(whole[start : start + _PIECE])
            time.sleep(self.server.piece_pause_s)
        self.close_connection = self.close_connection or len(whole) < len(body) or fault.longer_by > 0


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of moto's S3 server, in a process of its own."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        found = next(match for line in process.stderr if (match := re.search(r"Running on (http://\S+)", line)))
        threading.Thread(target=process.stderr.read, daemon=True).start()  # it logs each request there
        yield found[1]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@contextmanager
def unanswered() -> Iterator[str]:
    """An address, as host:port, at which nobody listens and nobody else can begin to while the block runs."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # never listens
        yield f"127.0.0.1:{held.getsockname()[1]}"


def free_port() -> int:
    """A port for a program that is to take it a moment later.

    The system hands out ports from 32768 on to whoever asks for any, and Ray those from 10002 to 19999: one from
    between is free until then, whatever else the machine does meanwhile.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def put(url: str, body: bytes = b"") -> None:
    """Make a bucket, or an object of this content in it."""
    # moto looks who it is, without whom nothing may be put twice, and does not check the signature.
    who = {"Authorization": "AWS4-HMAC-SHA256 Credential=any/20200101/us-east-1/s3/aws4_request"}
    request = UrlRequest(url, data=body, method="PUT", headers={"Content-Type": "application/octet-stream", **who})
    with urlopen(request, timeout=20) as answer:
        answer.read()


def wait_until(condition: Callable[[], object], *, seconds: float = 20) -> None:
    """Return as soon as it holds; fail if it does not come to hold."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
