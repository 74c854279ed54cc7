"""The training loop, one screen; what is not training hangs on it as a list of hooks."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from viewfold.errors import TrainingStopped
from viewfold.ssl.ahead import with_views
from viewfold.ssl.checkpoint import Progress
from viewfold.ssl.dist import rank, sum_over_ranks, world_size
from viewfold.ssl.engine import AbstractEngine
from viewfold.ssl.methods import Outcome
from viewfold.ssl.waiting import Waiting
from viewfold.ssl.watch import CollapseWatch, require_finite
from viewfold.values import Batch, Views


@dataclass(frozen=True)
class Step:
    """What a hook sees of the step that was just taken."""

    progress: Progress
    outcome: Outcome
    lr: float
    num_samples: int
    """Of all ranks."""
    waiting: Waiting
    """How long the device waited for the batch: ask it when something else has waited for the device anyway."""
    total_s: float
    """Seconds since the step before ended; the hooks that ran in between are included."""
    last: bool
    """Whether the run is complete with this step."""


Hook = Callable[[Step], None]


def train(
    engine: AbstractEngine,
    batches: Iterable[Batch],
    make_views: Callable[[Batch], Views],
    *,
    progress: Progress,
    steps: int,
    hooks: Sequence[Hook] = (),
) -> None:
    """Take steps until `progress` stands at `steps`; `batches` begin with the batch of step `progress.step`.

    A call of all ranks. The hooks run after every step, in their order.

    Raises:
        TrainingStopped: the batches ended early, or a hook says so.
    """
    ended = time.perf_counter()
    wanted = islice(batches, max(0, steps - progress.step))  # no batch is read ahead that no step is taken on
    with closing(with_views(wanted, make_views, engine.device)) as source:
        while progress.step < steps:
            with Waiting(engine.device) as waiting:
                coming = next(source, None)
            if coming is None:
                missing = steps - progress.step
                raise TrainingStopped(f"step {progress.step}: the stream ended, {missing} steps too early")
            batch, made = coming
            views = made()
            outcome = engine(views)
            outcome = replace(outcome, facts={**views.facts, **outcome.facts})  # one way into the metrics for both
            engine.backward(torch.stack(list(outcome.terms.values())).sum())
            engine.step()
            num_samples = progress.advance(batch)
            total_s, ended = time.perf_counter() - ended, time.perf_counter()
            step = Step(progress, outcome, engine.lr, num_samples, waiting, total_s, last=progress.step == steps)
            for hook in hooks:
                hook(step)


def metrics_hook(
    path: Path,
    *,
    every: int,
    progress: Progress,
    watch: CollapseWatch,
    counts: Callable[[], Mapping[str, float]] = dict,
) -> Hook:
    """Every `every` steps and at the end: stop on numbers that are not finite, look for collapse, append a JSONL row.

    A row holds step, samples, epoch, loss, each term, each fact of method and views (means over ranks), lr, samples_s
    (all ranks), data_wait (share of the time in which this rank's device had no batch to work on), what `watch` sees,
    and what `counts`, called on all ranks, answers on rank 0, which writes the row. Rows after `progress`, left by a
    run that was cut after its last checkpoint, are removed first.
    """
    if rank() == 0:
        _cut(path, progress.step)
    since = _Speed()

    def hook(step: Step) -> None:
        since.add(step)
        if step.progress.step % every and not step.last:
            return
        require_finite(step.progress.step, step.outcome)
        row = _means(step) | since.take() | watch.look(step.progress.step, step.outcome) | dict(counts())
        if rank() == 0:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    return hook


def checkpoint_hook(*, every: int, save: Callable[[Progress], object]) -> Hook:
    """Call `save` every `every` steps and at the end, on all ranks, but never after a loss that is not finite."""

    def hook(step: Step) -> None:
        if step.progress.step % every == 0 or step.last:
            require_finite(step.progress.step, step.outcome)
            save(step.progress)

    return hook


def _means(step: Step) -> dict[str, Any]:
    """Terms and (as `fact/NAME`) facts of this step as means over ranks: a rank's own value is only its share."""
    values = step.outcome.terms | {f"fact/{name}": value for name, value in step.outcome.facts.items()}
    with torch.no_grad():
        means = (sum_over_ranks(torch.stack([v.detach().float() for v in values.values()])) / world_size()).tolist()
    named = dict(zip(values, means, strict=True))
    loss = sum(named[name] for name in step.outcome.terms)
    return {**asdict(step.progress), "loss": loss, **named, "lr": step.lr}


class _Speed:
    """Sums over the steps since the last row; it keeps no step, whose features would fill the device."""

    def __init__(self) -> None:
        self._samples, self._total_s = 0, 0.0
        self._waiting: list[Waiting] = []

    def add(self, step: Step) -> None:
        self._samples += step.num_samples
        self._total_s += step.total_s
        self._waiting.append(step.waiting)

    def take(self) -> dict[str, float]:
        idle_s = sum(waiting.idle_s() for waiting in self._waiting)
        speed = {"samples_s": self._samples / self._total_s, "data_wait": idle_s / self._total_s}
        self._samples, self._total_s = 0, 0.0
        self._waiting.clear()
        return speed


def _cut(path: Path, last_step: int) -> None:
    """Cut in place: whoever follows the file must never find it empty."""
    if not path.is_file():
        return
    with path.open("r+b") as file:
        kept = 0
        for line in file:
            if _step_of(line) > last_step:
                break
            kept += len(line)
        file.truncate(kept)


def _step_of(line: bytes) -> float:
    """A line that a kill left unfinished belongs to no step that was kept."""
    try:
        return float(json.loads(line)["step"])
    except ValueError:
        return float("inf")
