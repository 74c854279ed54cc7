"""Two ways to do the same work, timed in turns: ratios of neighbouring runs, their median and its interval."""

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TypeVar

import numpy as np
import torch

R = TypeVar("R")


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


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
