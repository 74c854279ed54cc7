"""Whoever asked may not wait for the answer: work on it is given up once the connection is gone."""

import asyncio

from starlette.types import Message, Receive

_SOON_S = 0.25
"""Most answers come before it, and cost no more than a timer."""


class Leaving:
    """Passes a request's messages on; some time after the last, it waits for the end of the connection and cancels the
    task that made this object. It must be ended by `end`."""

    def __init__(self, receive: Receive) -> None:
        """`receive` is that of the connection; made in the task that answers."""
        self._receive = receive
        self._answering = asyncio.current_task()
        self._soon: asyncio.TimerHandle | None = None
        self._waiting: asyncio.Task[None] | None = None
        self.happened = False
        """Whether the task was cancelled here."""

    async def receive(self) -> Message:
        """The next message."""
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False) and self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(_SOON_S, self._wait)
        return message

    def end(self) -> None:
        """The answer is there; from now on nothing is cancelled."""
        if self._soon is not None:
            self._soon.cancel()
        if self._waiting is not None:
            self._waiting.cancel()

    def forgive(self) -> None:
        """Let the task that was cancelled go on."""
        if self._answering is not None:
            self._answering.uncancel()

    def _wait(self) -> None:
        self._waiting = asyncio.create_task(self._gone())

    async def _gone(self) -> None:
        message = await self._receive()
        if message["type"] == "http.disconnect" and self._answering is not None:
            self.happened = True
            self._answering.cancel()
