"""Connections that must come to the point: a bound on what is sent before, between and behind what is asked.

uvicorn's parser keeps a request's head until it is whole, however long it gets and takes, and no key is asked for
before: strangers could fill the memory with it, or hold connections open for nothing.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 64 * 2**10
"""Of a request's line and headers; also of what follows a body in chunks. One read of the socket may lie above it."""
HEAD_S = 30.0
"""From the connection, or the first byte of a request, to the end of its headers."""


class BoundedHeads(HttpToolsProtocol):
    """A connection; closed with 431 or 408 when a head gets too long or takes too long."""

    head_s = HEAD_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """See uvicorn's protocol."""
        super().__init__(*args, **kwargs)
        self._held = 0  # bytes since the last that led anywhere
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        limit = self.limit_concurrency
        if limit is not None and len(self.connections) > limit:
            transport.close()  # uvicorn counts requests with a whole head alone
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._head_is_whole()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self.transport.is_closing():
            return
        self._held += len(data)
        super().data_received(data)
        if self._held > HEAD_BYTES:
            self._refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        """The first byte of a request was read."""
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._head_is_whole()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body, which the application bounds."""
        self._held = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._held = 0
        super().on_message_complete()

    def _expect_head(self) -> None:
        if self._late is None:
            refuse: Callable[[bytes], None] = self._refuse
            self._late = self.loop.call_later(self.head_s, refuse, b"408 Request Timeout")

    def _head_is_whole(self) -> None:
        self._held = 0
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _refuse(self, status: bytes) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:  # else the answer to a request before it is under way
            self.transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        self.transport.close()
