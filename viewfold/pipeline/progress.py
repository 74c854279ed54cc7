"""How far long work has come: a bar on a terminal, plain lines elsewhere; and rows of a file as they are written."""

import json
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

FACTS = {"samples_s": "{:.0f} samples/s", "data_wait": "{:.0%} waiting for data"}
"""How the facts of these names are written; any other is its name and four digits."""


@dataclass
class Meter:
    """How much of some long work is done, shown as it grows. One thread at a time may use it."""

    what: str
    total: int | None
    show: Callable[["Meter"], object]
    say: Callable[[str], object]
    """Prints a line of its own, above a bar."""
    done: int = 0
    facts: dict[str, Any] = field(default_factory=dict)

    def advance(self, n: int = 1, **facts: Any) -> None:
        """`n` more are done, or fewer when work is taken up again from further back; facts stay until replaced."""
        self.done += n
        self.facts |= facts
        self.show(self)

    def fact_text(self) -> str:
        """The facts in one line, such as `loss 3.214, 580 samples/s, 3% waiting for data`."""
        return ", ".join(_fact(name, value) for name, value in self.facts.items())


@contextmanager
def progress(what: str, total: int | None, *, console: Console | None = None, every_s: float = 10) -> Iterator[Meter]:
    """Show how much of `total` is done (None: nobody knows how much there is) while the block runs.

    On a terminal a bar, in colour unless NO_COLOR is set; elsewhere a line at most every `every_s` seconds, and the
    last. All of it goes to standard error.
    """
    console = console or Console(stderr=True)
    view = _bar(console, what, total) if console.is_terminal else _lines(console, every_s)
    with view as show:
        yield Meter(what, total, show, partial(console.print, soft_wrap=True, markup=False, highlight=False))


@contextmanager
def follow(path: Path, on_row: Callable[[dict[str, Any]], object], *, poll_s: float = 0.2) -> Iterator[None]:
    """Call `on_row`, in a thread, with each row of the JSONL file `path` that another process writes during the block.

    The rows that are there already come first, and those written before the block ends are not missed. Half a line is
    left until its rest comes. When the writer goes back to a checkpoint and cuts the file, what comes after the cut is
    read as new, however long the file has become meanwhile. What `on_row` raises, the end of the block raises.
    """
    ended = threading.Event()
    with ThreadPoolExecutor(max_workers=1) as pool:
        reading = pool.submit(_read_rows, path, on_row, ended, poll_s)
        try:
            yield
        finally:
            ended.set()
        reading.result()


@contextmanager
def _bar(console: Console, what: str, total: int | None) -> Iterator[Callable[[Meter], object]]:
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, *times, TextColumn("{task.fields[facts]}"), console=console) as bar:
        task = bar.add_task(what, total=total, facts="")
        yield lambda meter: bar.update(task, completed=meter.done, facts=meter.fact_text())


@contextmanager
def _lines(console: Console, every_s: float) -> Iterator[Callable[[Meter], object]]:
    began = printed = time.monotonic()
    unseen: list[Meter] = []

    def show(meter: Meter) -> None:
        nonlocal printed
        unseen[:] = [meter]
        if time.monotonic() - printed >= every_s:
            put()
            printed = time.monotonic()

    def put() -> None:
        console.print(_line(unseen.pop(), time.monotonic() - began), soft_wrap=True, markup=False, highlight=False)

    try:
        yield show
    finally:
        if unseen:
            put()


def _line(meter: Meter, elapsed_s: float) -> str:
    count = str(meter.done) if meter.total is None else f"{meter.done}/{meter.total}"
    return ", ".join(part for part in (f"{meter.what}: {count}", f"{elapsed_s:.0f} s", meter.fact_text()) if part)


def _fact(name: str, value: Any) -> str:
    if name in FACTS:
        return FACTS[name].format(value)
    return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"


def _read_rows(path: Path, on_row: Callable[[dict[str, Any]], object], ended: threading.Event, poll_s: float) -> None:
    read: list[_Line] = []
    while True:
        last = ended.is_set()  # asked before reading: what was written before the end is then read
        _read_on(path, read, on_row)
        if last:
            return
        ended.wait(poll_s)


class _Line(NamedTuple):
    """A line that was read: where it ends, and what it was, by which one that took its place is known."""

    end: int
    size: int
    digest: int


def _read_on(path: Path, read: list[_Line], on_row: Callable[[dict[str, Any]], object]) -> None:
    """Read what follows the lines in `read`, less those at their end that the file does not hold any more."""
    if not path.is_file():
        read.clear()
        return
    with path.open("rb") as file:
        while read and not _still_holds(file, read[-1]):
            read.pop()
        end = read[-1].end if read else 0
        file.seek(end)
        for line in file:
            if not line.endswith(b"\n"):
                break
            end += len(line)
            read.append(_Line(end, len(line), zlib.crc32(line)))
            on_row(json.loads(line))


def _still_holds(file: BinaryIO, line: _Line) -> bool:
    file.seek(line.end - line.size)
    return zlib.crc32(file.read(line.size)) == line.digest
