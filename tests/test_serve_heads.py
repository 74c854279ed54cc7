"""Requests that do not come to the point, over real connections."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from viewfold.jobs.serve_heads import HEAD_BYTES, BoundedHeads

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bytes]]
POST = b"POST / HTTP/1.1\r\nhost: a\r\n"


class Hurried(BoundedHeads):
    """Waits for a head for a moment alone, in which a client on a busy machine can send one."""

    head_s = 1.0


async def counting(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the number of bytes that came."""
    count, more = 0, True
    while more:
        message = await receive()
        count, more = count + len(message.get("body", b"")), message.get("more_body", False)
        if message["type"] == "http.disconnect":
            return
    await asyncio.sleep(float(dict(scope["headers"]).get(b"x-wait", 0)))
    body = str(count).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def spoken(*talks: Talk, protocol: type[BoundedHeads] = BoundedHeads, most: int | None = None) -> list[bytes]:
    """What each of the connections was answered; they are opened in turn, and kept."""

    async def scene() -> list[bytes]:
        config = uvicorn.Config(counting, http=protocol, ws="none", log_config=None, limit_concurrency=most)
        config.load()
        made = partial(protocol, config=config, server_state=ServerState(), app_state={})
        server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
        answers: list[bytes] = []
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(server.close)
            for talk in talks:
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                stack.callback(writer.close)
                answers.append(await asyncio.wait_for(talk(reader, writer), 60))
        return answers

    return asyncio.run(scene())


def says(*parts: bytes, pause_s: float = 0.0) -> Talk:
    """Sends the parts one by one, and reads until the connection is closed."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause_s)
        with contextlib.suppress(ConnectionError):
            return await reader.read()
        return b""

    return talk


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Holds the connection open."""
    await asyncio.sleep(0.02)
    return b""


def status(answer: bytes) -> int:
    return int(answer.split()[1]) if answer else 0


PIECE = b"x" * 32_768


@pytest.mark.parametrize(
    "head",
    [
        [POST + b"a: ", *[PIECE] * 40],
        [b"GET /", *[PIECE] * 40],
        [POST, *[b"a: b\r\n" * 5000] * 40],
        [POST + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\na: ", *[PIECE] * 40],
        [POST + b"transfer-encoding: chunked\r\n\r\n1;", *[PIECE] * 40],
    ],
    ids=["header", "address", "headers", "trailer", "chunk"],
)
def test_a_head_that_grows_is_cut_off(head: list[bytes]) -> None:
    (answer,) = spoken(says(*head))
    assert status(answer) in {0, 431}  # the reset of a connection may overtake the answer on it


def test_a_long_body_and_a_head_within_the_bound_are_answered() -> None:
    length = 40 * len(PIECE)
    plain = POST + b"connection: close\r\na: " + b"x" * (HEAD_BYTES - 200)
    chunk = b"%x\r\n%s\r\n" % (len(PIECE), PIECE)
    answers = spoken(
        says(plain + b"\r\ncontent-length: %d\r\n\r\n" % length, *[PIECE] * 40),
        says(POST + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n", *[chunk] * 40, b"0\r\n\r\n"),
    )
    assert [(status(answer), answer.endswith(b"\r\n\r\n%d" % length)) for answer in answers] == [(200, True)] * 2


@pytest.mark.slow
def test_a_head_that_is_not_whole_in_time_is_cut_off_and_a_slow_body_or_answer_is_not() -> None:
    whole = POST + b"content-length: 2\r\n\r\nab"
    answers = spoken(
        says(POST, b"a: b", pause_s=0.2),
        says(),
        says(whole, POST, pause_s=0.2),
        says(POST + b"content-length: 2\r\nconnection: close\r\n\r\n", b"a", b"b", pause_s=1.5),
        says(POST + b"x-wait: 2\r\ncontent-length: 2\r\nconnection: close\r\n\r\nab"),
        protocol=Hurried,
    )
    assert [status(answer) for answer in answers] == [408, 408, 200, 200, 200]
    assert answers[2].count(b"408 Request Timeout") == 1


def test_there_are_only_so_many_connections() -> None:
    asked = says(POST + b"content-length: 0\r\nconnection: close\r\n\r\n")
    assert [status(answer) for answer in spoken(silent, silent, asked, most=3)] == [0, 0, 503]
    assert spoken(silent, silent, silent, asked, most=3)[-1] == b""
    assert status(spoken(silent, asked, most=3)[-1]) == 200
