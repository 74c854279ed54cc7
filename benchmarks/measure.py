"""Two ways to do the same work, timed in turns: ratios of neighbouring runs, their median and its interval.

`run_suite` is the command that every suite is: it measures, prints a line for each row and keeps the record.
"""

import argparse
import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from benchmarks.machine import describe_machine
from benchmarks.peers import peer_versions
from viewfold.errors import InvalidInput

R = TypeVar("R")
Row = dict[str, Any]
"""One figure: its `name` and `value`, what it was measured on, and where there is one its interval and its target."""
RESULTS = Path(__file__).parent / "results"
"""The records that are kept in the repository."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """What docs/benchmarks.md says of the rows of one name."""

    what: str
    beside: str = ""
    """What the value is a ratio to; empty for a figure that stands alone."""
    case: str = ""
    """What tells its rows apart, as a format of a row's fields: "{size} px"."""
    unit: str = "x"
    """`x` is a ratio, which the chart shows."""
    less: bool = False
    """Whether the smaller value is the better one; a target is then the most that is allowed."""
    why: str = ""
    """The cause of a missed target where one is known. Shown only when one is missed."""


@dataclass(frozen=True)
class Comparison:
    """Seconds of each pair of runs."""

    ours_s: list[float]
    peer_s: list[float]

    def ratio(self) -> tuple[float, float, float]:
        """How often ours fits into the peer's time: median over pairs, and the 95 % bootstrap interval of it."""
        ratios = np.array(self.peer_s) / np.array(self.ours_s)
        picks = np.random.default_rng(0).integers(0, len(ratios), (4000, len(ratios)))
        low, high = np.quantile(np.median(ratios[picks], axis=1), [0.025, 0.975])
        return float(np.median(ratios)), float(low), float(high)


def isolated(measure: Callable[..., R], *arguments: object) -> R:
    """`measure(*arguments)` on one thread of a fresh process: what ran before changes how memory is handed out."""
    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        return pool.submit(measure, *arguments).result()


def compare(ours: Callable[[], object], peer: Callable[[], object], *, repeats: int) -> Comparison:
    """Run both in turns after a warm-up each; who begins changes with every pair."""
    ours()
    peer()
    ours_s: list[float] = []
    peer_s: list[float] = []
    for pair in range(repeats):
        order = [(ours, ours_s), (peer, peer_s)]
        for work, seconds in order if pair % 2 == 0 else order[::-1]:
            seconds.append(seconds_of(work))
    return Comparison(ours_s, peer_s)


def seconds_of(work: Callable[[], object]) -> float:
    """Wall time of one run, with a GPU's work in it."""
    _wait()
    start = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - start


def compared(name: str, target: float, measured: Comparison, **facts: Any) -> Row:
    """A row for two ways to do one thing."""
    value, low, high = measured.ratio()
    return {
        "name": name,
        **facts,
        "device": "cpu",
        "value": value,
        "low": low,
        "high": high,
        "ours_ms": float(np.median(measured.ours_s)) * 1e3,
        "peer_ms": float(np.median(measured.peer_s)) * 1e3,
        "repeats": len(measured.ours_s),
        "target": target,
        "met": value >= target,
    }


def worst_case(rows: Iterable[Row], *, lower_is_better: Collection[str] = ()) -> dict[str, float]:
    """The least favourable value of each name; of the names in `lower_is_better` the greatest."""
    worst: dict[str, float] = {}
    for row in rows:
        worse = max if row["name"] in lower_is_better else min
        worst[row["name"]] = worse(row["value"], worst.get(row["name"], row["value"]))
    return worst


def lower(labels: Mapping[str, Label]) -> set[str]:
    """The names whose smaller value is the better one."""
    return {name for name, label in labels.items() if label.less}


def run_suite(
    suite: str,
    rows: Callable[[int], Iterable[Row]],
    *,
    about: str | None,
    repeats: int,
    packages: Sequence[str] = (),
    labels: Mapping[str, Label] = {},
    facts: Callable[[list[Row]], Mapping[str, Any]] = lambda measured: {},
) -> None:
    """The command line of a suite: measure, print each row as it is made, and last the record as JSON.

    `rows(repeats)` measures, on one thread (`isolated`); `facts(rows)` is what the record says of all of them, and
    `labels` how each name is shown. With `--out` the record is written to `benchmarks/results/SUITE.json`, or to the
    file that is named.
    """
    headline = about.splitlines()[0] if about else ""
    parser = argparse.ArgumentParser(description=headline)
    parser.add_argument("--repeats", type=int, default=repeats, help="pairs of runs for each row")
    kept = RESULTS / f"{suite}.json"
    parser.add_argument(
        "--out", type=Path, nargs="?", const=kept, help=f"also write the record to this file, by default {kept}"
    )
    arguments = parser.parse_args()
    try:
        peer_versions()  # before what takes minutes: whether there is such a Python
    except InvalidInput as error:
        parser.error(str(error))
    start = time.perf_counter()
    measured = []
    for row in rows(arguments.repeats):
        print(line_of(row), flush=True)
        measured.append(row)
    record = {
        "suite": suite,
        "about": headline,
        "machine": describe_machine(*packages),
        "minutes": (time.perf_counter() - start) / 60,
        "threads": 1,
        **facts(measured),
        "labels": {name: asdict(label) for name, label in labels.items()},
        "rows": measured,
    }
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record))


def line_of(row: Row) -> str:
    """A row for the eye: name, value and interval, then what else it says."""
    interval = f" [{row['low']:.2f}, {row['high']:.2f}]" if "low" in row else ""
    others = {key: value for key, value in row.items() if key not in {"name", "value", "low", "high"}}
    facts = [f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in others.items()]
    return f"{row['name']:32} {row['value']:7.2f}{interval:16} {' '.join(facts)}"


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
