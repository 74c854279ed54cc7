"""What surrounds every request: a name, a pair, keys, limits, a timeout, headers, metrics, one line of log.

Plain ASGI: Starlette's own class for middleware costs more than a search does.
"""

import asyncio
import re
import time
import traceback
import uuid
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from viewfold.retrieval.service.auth import Keys
from viewfold.retrieval.service.backend import Backend, NotReady, Overloaded, ServedPair
from viewfold.retrieval.service.config import LimitsConfig
from viewfold.retrieval.service.failures import Failure, TooLarge, failure_of, timed_out
from viewfold.retrieval.service.leaving import Leaving
from viewfold.retrieval.service.log import write_line
from viewfold.retrieval.service.metrics import IN_FLIGHT, REQUESTS, SECONDS

PROBES = ("/healthz", "/readyz", "/metrics")
"""Answered however much there is to do."""
UNTIMED = ("/v1/admin/reload",)
"""May take longer than the limit: opening an index is not cut off half-way."""
GONE = 499
"""What is counted and logged for a request whose sender has gone; nobody is told."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


@dataclass(eq=False)
class _Exchange:
    """One request and what became of it."""

    scope: Scope
    headers: Headers
    request_id: str
    start: float = field(default_factory=time.perf_counter)
    status: int = 0
    """Of the answer; 0 until it has begun."""
    bytes_in: int = 0
    trace: str | None = None
    """Of an error that was not raised on purpose."""

    @property
    def route(self) -> str:
        """The path as it is declared, so that there are as many as routes and not as keys."""
        return getattr(self.scope.get("route"), "path", "unmatched")

    @property
    def pair(self) -> ServedPair | None:
        """What answers; a reload puts the new one in its place."""
        pair: ServedPair | None = self.scope["state"]["pair"]
        return pair


class Border:
    """The outermost application; `inner` answers."""

    def __init__(self, inner: ASGIApp, *, backend: Backend, keys: Keys, limits: LimitsConfig) -> None:
        """One for each process."""
        self._inner, self._backend, self._keys, self._limits = inner, backend, keys, limits
        self._in_flight = self._bytes_in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI; what is not HTTP passes."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        headers = Headers(scope=scope)
        exchange = _Exchange(scope, headers, _request_id(headers))
        scope["state"] = {"pair": self._pair(), "timings": {}, "request_id": exchange.request_id}
        self._in_flight += 1
        IN_FLIGHT.inc()
        try:
            await self._answer(exchange, receive, send)
        finally:
            self._in_flight -= 1
            self._bytes_in_flight -= exchange.bytes_in
            IN_FLIGHT.dec()
            _account(exchange)

    async def _answer(self, exchange: _Exchange, receive: Receive, send: Send) -> None:
        async def counted() -> Message:
            message = await receive()
            taken = len(message.get("body", b""))
            exchange.bytes_in += taken
            self._bytes_in_flight += taken
            if exchange.bytes_in > self._limits.max_body_bytes:
                raise self._too_large()
            if self._bytes_in_flight > self._limits.max_bytes_in_flight:
                raise Overloaded("the bodies of all requests fill the memory set aside for them; come back in a second")
            return message

        async def adorned(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                _adorn(message, exchange)
            await send(message)

        failure = await self._attempt(exchange, counted, adorned)
        if failure is not None:
            exchange.scope["state"]["error"] = failure.code
        if failure is not None and not exchange.status:
            await failure.response(exchange.request_id)(exchange.scope, receive, adorned)

    async def _attempt(self, exchange: _Exchange, receive: Receive, send: Send) -> Failure | None:
        path, limits = exchange.scope["path"], self._limits
        limit = None if path in UNTIMED else limits.timeout_s
        timer = asyncio.timeout(limit)
        leaving = Leaving(receive)
        try:
            self._admit(path, exchange.headers)
            async with timer:
                await self._inner(exchange.scope, receive if path in UNTIMED else leaving.receive, send)
        except (ClientDisconnect, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError):
                if not leaving.happened:
                    raise
                leaving.forgive()
            exchange.status = exchange.status or GONE
        except Exception as error:
            if timer.expired() and isinstance(error, TimeoutError):
                return timed_out(limits.timeout_s)
            failure = failure_of(error)
            if failure.status == 500:
                exchange.trace = traceback.format_exc()
            return failure
        finally:
            leaving.end()
        return None

    def _admit(self, path: str, headers: Headers) -> None:
        self._keys.check(path, headers)
        if self._in_flight > self._limits.max_in_flight and path not in PROBES:
            raise Overloaded(f"{self._limits.max_in_flight} requests are being answered; come back in a second")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length) > self._limits.max_body_bytes:
            raise self._too_large()

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is longer than the {self._limits.max_body_bytes} bytes allowed; send less")

    def _pair(self) -> ServedPair | None:
        try:
            return self._backend.pair()
        except NotReady:
            return None


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _adorn(message: Message, exchange: _Exchange) -> None:
    headers = MutableHeaders(raw=message["headers"])
    headers["X-Request-Id"] = exchange.request_id
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Cross-Origin-Resource-Policy"] = "same-origin"  # no picture of the index in a page of others
    if exchange.pair is not None:
        info = exchange.pair.info
        headers["X-Encoder-Id"], headers["X-Bundle-Id"], headers["X-Pair-Id"] = info.encoder_id, info.bundle.id, info.id
    spent: dict[str, float] = exchange.scope["state"]["timings"]
    total = 1000 * (time.perf_counter() - exchange.start)
    headers["Server-Timing"] = ", ".join(f"{name};dur={ms:.1f}" for name, ms in {**spent, "total": total}.items())


def _account(exchange: _Exchange) -> None:
    seconds, route = time.perf_counter() - exchange.start, exchange.route
    REQUESTS.labels(route, str(exchange.status)).inc()
    SECONDS.labels(route).observe(seconds)
    pair = exchange.pair
    told = {"error": exchange.scope["state"].get("error"), "trace": exchange.trace}
    more = {name: text for name, text in told.items() if text is not None}
    write_line(
        request_id=exchange.request_id,
        method=exchange.scope["method"],
        route=route,
        status=exchange.status,
        ms=round(1000 * seconds, 2),
        bytes_in=exchange.bytes_in,
        pair=None if pair is None else pair.info.id,
        **more,
    )
