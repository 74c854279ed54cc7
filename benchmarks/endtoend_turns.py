"""Trainings that are timed by turns on the same cores: each a process that stands still while another one works.

A process is stopped as a whole, its loader processes with it, so none of them reads ahead in another one's turn. It is
a process group in the session of whoever started it: should that one be killed, the system wakes and ends the group.
The peer's Python imports this file too, so at its top it needs the standard library alone.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_MARK = "turn: "
"""Begins the lines that are answers; what else a library prints is passed over."""


class Turns:
    """The training's end: it says once what it is, then takes steps when it is asked for them."""

    def __init__(self, **facts: Any) -> None:
        _answer(facts)
        self._begin()

    def step_taken(self, _: object = None) -> None:
        """Count a step, and where the turn is over say how long it was and wait for the next one."""
        if self._before:
            self._before -= 1
            self._start = time.perf_counter()
            return
        self._steps -= 1
        if not self._steps:
            _answer({"seconds": time.perf_counter() - self._start})
            self._begin()

    def _begin(self) -> None:
        line = sys.stdin.readline()
        if not line:
            raise SystemExit
        asked = json.loads(line)
        self._before, self._steps, self._start = asked["before"], asked["steps"], time.perf_counter()


class Training:
    """The other end: a training in a process group that works only during its turns."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log
        self.facts = self._heard()
        """What the training said of itself."""
        self._signal(signal.SIGSTOP)

    def seconds(self, steps: int, *, before: int = 1) -> float:
        """Wall time of so many steps, after `before` steps that do not count."""
        self._signal(signal.SIGCONT)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"before": before, "steps": steps}) + "\n")
        self._process.stdin.flush()
        seconds = float(self._heard()["seconds"])
        self._signal(signal.SIGSTOP)
        return seconds

    def _heard(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(_MARK):
                heard: dict[str, Any] = json.loads(line.removeprefix(_MARK))
                return heard
        raise AssertionError(f"a training ended:\n{self._log.read_text()[-2000:]}")

    def _signal(self, number: signal.Signals) -> None:
        os.killpg(self._process.pid, number)


@contextmanager
def training(command: Sequence[str], *, threads: int, log: Path) -> Iterator[Training]:
    """The training that a command starts, on so many threads, waiting for its first turn; ended with the block.

    Its environment is that of the workers of `viewfold run`, whoever's training it is: threads that wait do so asleep,
    and memory of a step is kept for the next one.
    """
    from viewfold.pipeline.ray_train import worker_variables

    env = {**os.environ, "OMP_NUM_THREADS": str(threads), **worker_variables()}
    pipe = subprocess.PIPE
    with log.open("ab") as errors:
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=errors, text=True, cwd=ROOT, env=env, process_group=0
        )
    try:
        yield Training(process, log)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the loader processes too
        process.communicate()


def _answer(facts: dict[str, Any]) -> None:
    print(f"{_MARK}{json.dumps(facts)}", flush=True)
