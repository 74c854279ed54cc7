"""Load on an HTTP server: closed loop (as fast as it answers) and open loop (at a rate, whether it keeps up or not).

`apart` runs either in a process of its own, for what it costs must not be the server's. Requests are bytes made
before the clock starts. In the open loop a latency begins when the request was due, not when a connection was free.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count, cycle
from pathlib import Path

import numpy as np


@dataclass(frozen=True, eq=False)
class Load:
    """What came of it."""

    seconds: float
    """From the first request that counts to the last answer."""
    latencies_s: list[float] = field(repr=False)
    """Of the answers with status 200."""
    failures: int
    """Other answers, and connections that broke."""

    @property
    def per_s(self) -> float:
        """Answers with status 200 in a second."""
        return len(self.latencies_s) / self.seconds

    def quantile_ms(self, share: float) -> float:
        """The latency that this share of the answers do not exceed."""
        return 1e3 * float(np.quantile(self.latencies_s, share))


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where requests go."""

    port: int
    path: str
    bodies: Path
    """A file with one JSON body a line; they are sent in turns."""
    connections: int


def apart(target: Target, seconds: float, warmup_s: float, *, rate: float | None = None) -> Load:
    """The closed loop, or with a `rate` the open one, in a fresh process that loads nothing but this file.

    Raises:
        RuntimeError: nothing was answered as it should be.
    """
    asked = {**asdict(target), "bodies": str(target.bodies), "seconds": seconds, "warmup_s": warmup_s, "rate": rate}
    command = [sys.executable, "-c", "from benchmarks.load import main; main()", json.dumps(asked)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[1])
    load = Load(**json.loads(run.stdout))
    if not load.latencies_s:
        raise RuntimeError(f"{target.path}: {load.failures} failures and no good answer in {seconds} s")
    return load


def main() -> None:
    """What `apart` runs: JSON in the one argument, JSON out."""
    asked = json.loads(sys.argv[1])
    names = ("port", "path", "connections")
    target = Target(bodies=Path(asked["bodies"]), **{name: asked[name] for name in names})
    times, rate = (asked["seconds"], asked["warmup_s"]), asked["rate"]
    print(json.dumps(asdict(closed_loop(target, *times) if rate is None else open_loop(target, rate, *times))))


def closed_loop(target: Target, seconds: float, warmup_s: float) -> Load:
    """Every connection sends its next request when it has the answer to the last."""

    async def load() -> Load:
        made, begin = cycle(requests_of(target)), time.perf_counter() + warmup_s
        end = begin + seconds

        async def turns(link: Link, out: list[tuple[float, float, int]]) -> None:
            sent = 0.0  # every connection has an answer that counts, however long one takes
            while time.perf_counter() < end or sent < begin:
                sent = time.perf_counter()
                status = await link.ask(next(made))
                out.append((sent, time.perf_counter(), status))

        answers = [answer for answer in await _links(target, turns) if answer[0] >= begin]
        return _loaded(answers, begin)

    return asyncio.run(load())


def open_loop(target: Target, rate: float, seconds: float, warmup_s: float) -> Load:
    """Requests are due at times that were drawn before (a Poisson process, fixed seed), `rate` a second."""
    gaps = np.random.default_rng(0).exponential(1 / rate, round(rate * (warmup_s + seconds)))

    async def load() -> Load:
        made, numbers = cycle(requests_of(target)), count()
        start = time.perf_counter() + 0.1
        due = start + np.cumsum(gaps)

        async def turns(link: Link, out: list[tuple[float, float, int]]) -> None:
            while (number := next(numbers)) < len(due):
                await asyncio.sleep(max(0.0, due[number] - time.perf_counter()))
                status = await link.ask(next(made))
                out.append((float(due[number]), time.perf_counter(), status))

        begin = start + warmup_s
        return _loaded([answer for answer in await _links(target, turns) if answer[0] >= begin], begin)

    return asyncio.run(load())


def requests_of(target: Target) -> Iterator[bytes]:
    """Whole requests, one for each body."""
    for body in target.bodies.read_bytes().splitlines():
        head = f"POST {target.path} HTTP/1.1\r\nHost: 127.0.0.1:{target.port}\r\nContent-Type: application/json\r\n"
        yield f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Link:
    """One connection to a server on this machine; opened again where the server closes it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> int:
        """Send a request and read its answer to the end: the status, 0 where the connection broke."""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._streams
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            stated = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
            await (reader.readexactly(int(stated)) if stated else reader.read())
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return 0
        if not stated or b"connection: close" in head or head.startswith(b"http/1.0"):
            self.close()
        return int(head[9:12])

    def close(self) -> None:
        """Drop the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _links(
    target: Target, turns: Callable[[Link, list[tuple[float, float, int]]], Awaitable[None]]
) -> list[tuple[float, float, int]]:
    """Begin, end and status of every answer, over as many connections as the target says."""
    out: list[tuple[float, float, int]] = []
    links: Sequence[Link] = [Link(target.port) for _ in range(target.connections)]
    try:
        await asyncio.gather(*(turns(link, out) for link in links))
    finally:
        for link in links:
            link.close()
    return out


def _loaded(answers: list[tuple[float, float, int]], begin: float) -> Load:
    good = [end - start for start, end, status in answers if status == 200]
    last = max((end for _, end, _ in answers), default=begin)
    return Load(max(last - begin, 1e-9), good, len(answers) - len(good))
