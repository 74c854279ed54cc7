"""Concurrent calls become batches, and nobody notices but the clock."""

import asyncio
import threading
from collections.abc import Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from viewfold.errors import InvalidInput
from viewfold.retrieval.service.batching import Batcher
from viewfold.retrieval.service.config import BatchingConfig


class Doubling:
    """Work that doubles numbers, refuses negative ones, fails at 666, and can be held up."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.open = threading.Event()
        self.open.set()

    def __call__(self, key: str, items: list[int]) -> list[int]:
        assert self.open.wait(10)
        self.batches.append((key, items))
        if min(items) < 0:
            raise InvalidInput(f"{min(items)} is negative")
        if 666 in items:
            raise RuntimeError("broken")
        return [2 * item for item in items]


async def held_up(
    work: Doubling, batcher: Batcher[str, int, int], calls: Sequence[tuple[str, list[int]]]
) -> list[object]:
    """The answers to `calls`, which all come while a first call is being worked on."""
    work.open.clear()
    first = asyncio.create_task(batcher("first", [0]))
    await asyncio.sleep(0)
    waiting: list[Awaitable[object]] = [asyncio.create_task(batcher(key, items)) for key, items in calls]
    await asyncio.sleep(0)
    work.open.set()
    assert await first == [0]
    return list(await asyncio.gather(*waiting, return_exceptions=True))


def batcher(work: Doubling, max_batch: int = 4, max_wait_ms: float = 0) -> Batcher[str, int, int]:
    return Batcher("test", work, BatchingConfig(max_batch=max_batch, max_wait_ms=max_wait_ms))


def test_calls_that_come_while_a_batch_is_worked_on_are_joined_by_key_up_to_the_limit() -> None:
    work = Doubling()
    calls = [("a", [1, 2]), ("b", [3]), ("a", [4, 5]), ("a", [6]), ("b", [7])]
    answers = asyncio.run(held_up(work, batcher(work), calls))
    assert answers == [[2, 4], [6], [8, 10], [12], [14]]
    assert work.batches == [("first", [0]), ("a", [1, 2, 4, 5]), ("b", [3, 7]), ("a", [6])]


def test_a_call_that_is_refused_does_not_hurt_those_it_was_joined_with() -> None:
    work = Doubling()
    answers = asyncio.run(held_up(work, batcher(work), [("a", [1]), ("a", [-1]), ("a", [2])]))
    assert (answers[0], answers[2]) == ([2], [4])
    assert isinstance(answers[1], InvalidInput)


def test_a_failure_reaches_every_call_of_its_batch_and_the_next_batch_is_served() -> None:
    work = Doubling()
    answers = asyncio.run(held_up(work, batcher(work), [("a", [1]), ("a", [666]), ("b", [2])]))
    assert [type(answer) for answer in answers] == [RuntimeError, RuntimeError, list]


def test_a_call_that_was_given_up_is_not_worked_on() -> None:
    work = Doubling()

    async def scene() -> list[int]:
        joined = batcher(work)
        work.open.clear()
        first = asyncio.create_task(joined("a", [0]))
        await asyncio.sleep(0)
        given_up = asyncio.create_task(joined("a", [9]))
        kept = asyncio.create_task(joined("a", [1]))
        await asyncio.sleep(0)
        given_up.cancel()
        work.open.set()
        await first
        return await kept

    assert asyncio.run(scene()) == [2]
    assert [items for _, items in work.batches] == [[0], [1]]


def test_a_first_call_waits_for_company_where_that_is_wanted() -> None:
    work = Doubling()

    async def scene() -> list[list[int]]:
        joined = batcher(work, max_wait_ms=20)
        return list(await asyncio.gather(joined("a", [1]), joined("a", [2])))

    assert asyncio.run(scene()) == [[2], [4]]
    assert [items for _, items in work.batches] == [[1, 2]]


def test_a_call_larger_than_a_batch_is_cut_and_one_of_nothing_is_not_worked_on() -> None:
    work = Doubling()
    assert asyncio.run(batcher(work)("a", list(range(9)))) == [2 * n for n in range(9)]
    assert asyncio.run(batcher(work)("a", [])) == []
    assert [items for _, items in work.batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


def test_between_the_parts_of_a_large_call_others_have_their_turn() -> None:
    work = Doubling()
    answers = asyncio.run(held_up(work, batcher(work), [("a", list(range(8))), ("b", [9])]))
    assert answers == [[2 * n for n in range(8)], [18]]
    assert [key for key, _ in work.batches] == ["first", "a", "b", "a"]


def test_batches_do_not_wait_for_the_threads_of_others() -> None:
    work, busy = Doubling(), threading.Event()

    async def scene() -> list[int]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        other = asyncio.create_task(asyncio.to_thread(busy.wait, 10))
        try:
            return await asyncio.wait_for(batcher(work)("a", [1]), 10)
        finally:
            busy.set()
            await other

    assert asyncio.run(scene()) == [2]


def test_one_batcher_serves_one_event_loop_after_another() -> None:
    work = Doubling()
    joined = batcher(work)
    assert [asyncio.run(joined("a", [number])) for number in range(3)] == [[0], [2], [4]]


@pytest.mark.parametrize("wrong", [{"max_batch": 0}, {"max_wait_ms": -1}, {"max_wait_ms": float("nan")}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        BatchingConfig(**wrong)  # type: ignore[arg-type]
