"""Concurrent calls joined: while one batch is worked on in a thread, the next one fills.

No call waits for company by default: under load batches grow by themselves, and a call alone is a batch of one.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from viewfold.errors import InvalidInput
from viewfold.retrieval.service.config import BatchingConfig
from viewfold.retrieval.service.metrics import BATCH_SIZE

Key = TypeVar("Key")
Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True, eq=False)
class _Call(Generic[Key, Item, Answer]):
    """Items that one caller waits for."""

    key: Key
    items: Sequence[Item]
    done: "asyncio.Future[list[Answer]]"


class Batcher(Generic[Key, Item, Answer]):
    """Joins calls with equal keys into batches, one batch at a time, first come first served."""

    def __init__(self, stage: str, work: Callable[[Key, list[Item]], list[Answer]], config: BatchingConfig) -> None:
        """`work` answers a batch, item by item, in a thread; an answer must not depend on the others in the batch."""
        self._work, self._config = work, config
        # Its own, which ends with this object: whatever else keeps threads busy, batches do not wait for one.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=stage)
        self._sizes = BATCH_SIZE.labels(stage)
        self._waiting: deque[_Call[Key, Item, Answer]] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, key: Key, items: Sequence[Item]) -> list[Answer]:
        """The answers to `items`. What `work` raises is raised for the calls that it concerns, and for no other.

        More items than a batch may have are several calls, one after the other, so that others have their turn."""
        most = self._config.max_batch
        if len(items) > most:
            parts = [items[start : start + most] for start in range(0, len(items), most)]
            return [answer for part in parts for answer in await self(key, part)]
        if not items:
            return []
        call = _Call[Key, Item, Answer](key, items, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        if self._worker is None:
            self._worker = asyncio.create_task(self._run())
        return await call.done

    async def _run(self) -> None:
        try:
            if self._config.max_wait_ms and self._pending() < self._config.max_batch:
                await asyncio.sleep(self._config.max_wait_ms / 1000)
            while calls := self._next():
                await self._answer(calls)
        finally:
            self._worker = None

    def _pending(self) -> int:
        return sum(len(call.items) for call in self._waiting)

    def _next(self) -> list[_Call[Key, Item, Answer]]:
        """The oldest call with as many others of its key as there is room for; those given up are dropped."""
        chosen: list[_Call[Key, Item, Answer]] = []
        left: deque[_Call[Key, Item, Answer]] = deque()
        room = self._config.max_batch
        for call in self._waiting:
            if call.done.done():
                continue
            fits = not chosen or (len(call.items) <= room and _same(call.key, chosen[0].key))
            (chosen if fits else left).append(call)
            room -= len(call.items) if fits else 0
        self._waiting = left
        return chosen

    async def _answer(self, calls: list[_Call[Key, Item, Answer]]) -> None:
        items = [item for call in calls for item in call.items]
        try:
            running = asyncio.get_running_loop()
            answers = await running.run_in_executor(self._thread, self._work, calls[0].key, items)
        except InvalidInput as error:
            if len(calls) == 1:
                _refuse(calls, error)
            else:  # one of them is at fault: each alone tells which
                for call in calls:
                    await self._answer([call])
            return
        except Exception as error:
            _refuse(calls, error)
            return
        self._sizes.observe(len(items))
        for call in calls:
            mine, answers = answers[: len(call.items)], answers[len(call.items) :]
            if not call.done.done():
                call.done.set_result(mine)


def _same(one: object, other: object) -> bool:
    return one is other or one == other


def _refuse(calls: Sequence[_Call[Key, Item, Answer]], error: Exception) -> None:
    for call in calls:
        if not call.done.done():
            call.done.set_exception(error)
