"""Requests to the retrieval service over connections that stay open, sent again when the service is busy."""

import http.client
import json
import random
import ssl
import time
from collections import deque
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from viewfold.errors import InvalidInput, ViewfoldError

BUSY = (429, 503)
"""Answers that say: the same request, later. One that took too long (504) would take as long again."""
MAX_WAIT_S = 60.0
"""A service that asks for a longer pause is not asked again."""


class ServiceError(ViewfoldError):
    """The service refused a request, failed at it or could not be reached; the message is its own sentence."""

    def __init__(self, message: str, status: int = 0, code: str = "unreachable", request_id: str | None = None) -> None:
        """`status` is that of HTTP, 0 where there was no answer; `request_id` stands in the log of the service."""
        super().__init__(message, status, code, request_id)  # all of them, so that it can cross process borders
        self.status = status
        self.code = code
        self.request_id = request_id

    def __str__(self) -> str:
        return str(self.args[0])


class Connection:
    """JSON to and from one service. Threads may share it: each request has an open connection to itself."""

    def __init__(self, url: str, *, key: str | None, retries: int, timeout_s: float) -> None:
        """`url` as in http://127.0.0.1:8000; `Client` says what the others are.

        Raises:
            InvalidInput: `url` is not an http address, or `key` cannot be sent.
        """
        self._secure, self._host, self._port, self._prefix = _address(url)
        if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key and key):
            raise InvalidInput("the key for the service has characters that no key has")
        self._url, self._retries, self._timeout_s = url, retries, timeout_s
        self._headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._tls = ssl.create_default_context() if self._secure else None
        self._idle: deque[http.client.HTTPConnection] = deque()

    def answer(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> Any:
        """What the service answers, within `timeout_s` or that of the connection.

        Raises:
            ServiceError: it refuses, fails or cannot be reached.
        """
        sent = None if body is None else json.dumps(body, allow_nan=False).encode()
        data = self.content(method, path, sent, timeout_s=timeout_s)
        try:
            return json.loads(data)
        except ValueError:
            raise ServiceError(
                f"{self._url}{path}: the answer is not JSON; is this the address of the service?"
            ) from None

    def content(self, method: str, path: str, body: bytes | None = None, *, timeout_s: float | None = None) -> bytes:
        """The body of the answer as it came; raises as `answer` does."""
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        for attempt in range(self._retries + 1):
            status, headers, data = self._sent(method, path, body, limit_s)
            if status < 300:
                return data
            wait = _pause(headers.get("Retry-After"), attempt)
            if status not in BUSY or attempt == self._retries or wait > MAX_WAIT_S:
                raise _refusal(f"{self._url}{path}", status, headers, data)
            time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        """Let go of the connections that nobody uses now; the next request opens one again."""
        while (kept := self._unused()) is not None:
            kept.close()

    def _sent(
        self, method: str, path: str, body: bytes | None, timeout_s: float
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and body of one answer.

        The other side may have closed a connection that lay idle, which shows only when it is used: the request then
        goes out once more, on a new one. Should the service have begun it already, it does the same work twice, and
        to the same end: its requests read, and a reload ends with the pair that was asked for.
        """
        while True:
            kept = self._unused()
            connection = kept or self._opened()
            connection.timeout = timeout_s
            if connection.sock is not None:
                connection.sock.settimeout(timeout_s)
            try:
                return self._asked(connection, method, path, body)
            except TimeoutError:
                connection.close()
                raise ServiceError(f"{self._url}{path}: no answer within {timeout_s:g} s", code="timeout") from None
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if kept is None:
                    why = " ".join(str(error).split()) or type(error).__name__
                    raise ServiceError(f"{self._url}: cannot reach the service there ({why})") from None

    def _asked(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        headers = self._headers | ({"Content-Type": "application/json"} if body is not None else {})
        connection.request(method, self._prefix + path, body=body, headers=headers)
        answer = connection.getresponse()
        data = answer.read()
        if answer.will_close:
            connection.close()
        else:
            self._idle.append(connection)
        return answer.status, answer.headers, data

    def _unused(self) -> http.client.HTTPConnection | None:
        try:
            return self._idle.pop()  # asked first whether there is one, another thread could have it meanwhile
        except IndexError:
            return None

    def _opened(self) -> http.client.HTTPConnection:
        if self._tls is not None:
            return http.client.HTTPSConnection(self._host, self._port, context=self._tls)
        return http.client.HTTPConnection(self._host, self._port)


def _address(url: str) -> tuple[bool, str, int | None, str]:
    """Whether it is https, host, port, and what every path begins with."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # brackets that do not close, a port that is no number
        host, port = None, None
    if not host or parts.scheme not in {"http", "https"} or parts.query or parts.username is not None:
        raise InvalidInput(f"{url!r}: not an address of a service; write it as http://127.0.0.1:8000, its key apart")
    return parts.scheme == "https", host, port, parts.path.rstrip("/")


def _pause(stated: str | None, attempt: int) -> float:
    """Seconds until the next attempt: as many as the service asks for, else longer each time.

    Up to a half more is added: callers that were refused together should not come back together.
    """
    try:
        wait = max(0.0, float(stated or ""))
    except ValueError:  # none, or a date, which this service does not send
        wait = 0.25 * 2**attempt
    return wait * (1 + random.random() / 2)


def _refusal(where: str, status: int, headers: http.client.HTTPMessage, data: bytes) -> ServiceError:
    request_id = headers.get("X-Request-Id")
    try:
        error = json.loads(data)["error"]
        return ServiceError(str(error["message"]), status, str(error["code"]), error.get("request_id", request_id))
    except (ValueError, KeyError, TypeError, AttributeError):  # a proxy between, or another server
        return ServiceError(f"{where}: answered with {status}", status, "http", request_id)
