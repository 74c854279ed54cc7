"""What each rank consumed, written down: for people who must prove that every sample came exactly once.

A folder with a file for each rank. Every start of the worker group is an attempt; it writes one line with the step it
begins at, then one line for each batch that the training took. Steps that an attempt takes again were rolled back to
the last checkpoint, so the earlier lines of these steps are history that was not kept.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from viewfold.errors import InvalidInput
from viewfold.pipeline.order.plan import Places
from viewfold.values import Batch


@dataclass(frozen=True)
class Taken:
    """One rank's places of one global batch."""

    attempt: int
    step: int
    rank: int
    epochs: list[int]
    """Epoch of each place."""
    keys: list[str]
    """The sample that the order has at each place."""
    repeated: list[int]
    """Places that hold a sample again, only to fill the batch."""
    stand_ins: dict[int, str]
    """Places whose sample could not be read, with the key of the one that was taken instead."""
    rolled_back: bool = False


class Ledger:
    """One rank's side of the ledger: opened for an attempt, then a line for each batch."""

    def __init__(self, folder: Path, *, rank: int, attempt: int) -> None:
        """`attempt` counts the groups of workers of this run, 0 the first.

        Raises:
            InvalidInput: the folder has this attempt already: it is another run's.
        """
        self._rank, self._attempt = rank, attempt
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"rank-{rank:05d}.jsonl"
        if any(line["attempt"] >= attempt for line in _lines(self._path)):
            raise InvalidInput(f"{folder}: holds the ledger of another run; remove it, or name another stream.ledger")
        _mend(self._path)

    def begin(self, *, step: int, world_size: int, manifest_hash: str, num_samples: int) -> None:
        """Note that this attempt goes on from `step`: what earlier ones took of it or after it was rolled back."""
        self._append(
            {
                "attempt": self._attempt,
                "from_step": step,
                "world_size": world_size,
                "manifest_hash": manifest_hash,
                "num_samples": num_samples,
            }
        )

    def take(self, step: int, places: Places, batch: Batch, *, key_of: Callable[[int], str]) -> None:
        """Note what the training is handed at `step`: by the samples that the order has at these places."""
        planned, taken = places.rows.tolist(), batch.rows.tolist()
        stood_in = [place for place, (row, wanted) in enumerate(zip(taken, planned, strict=True)) if row != wanted]
        keys = list(batch.keys)
        for place in stood_in:
            keys[place] = key_of(planned[place])
        self._append(
            {
                "attempt": self._attempt,
                "step": step,
                "rank": self._rank,
                "epochs": places.epochs.tolist(),
                "keys": keys,
                "repeated": np.flatnonzero(places.repeated).tolist(),
                "stand_ins": {place: batch.keys[place] for place in stood_in},
            }
        )

    def _append(self, line: dict[str, Any]) -> None:
        with self._path.open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")


def _mend(path: Path) -> None:
    """End a line that a kill left unfinished: it is skipped when read, and must not swallow the next one."""
    if path.is_file():
        with path.open("r+b") as file:
            if file.seek(0, 2) and not _ends_line(file):
                file.write(b"\n")


def _ends_line(file: Any) -> bool:
    file.seek(-1, 2)
    return bool(file.read(1) == b"\n")


def read_ledger(folder: Path) -> list[Taken]:
    """Every line of every rank by attempt, step and rank, those of steps that were rolled back marked as such.

    Raises:
        InvalidInput: no ledger there.
    """
    begins: dict[int, int] = {}
    taken = []
    for path in _files(folder):
        for line in _lines(path):
            if "from_step" in line:
                begins[line["attempt"]] = line["from_step"]
            else:
                taken.append(line)
    if not begins:
        raise InvalidInput(f"{folder}: no ledger there; train with stream.ledger={folder} to write one")
    kept_until = _kept_until(begins)
    return [
        _taken(line, kept_until)
        for line in sorted(taken, key=lambda line: (line["attempt"], line["step"], line["rank"]))
    ]


def _taken(line: dict[str, Any], kept_until: dict[int, float]) -> Taken:
    stand_ins = {int(place): key for place, key in line["stand_ins"].items()}
    rolled_back = line["step"] >= kept_until[line["attempt"]]
    return Taken(**{**line, "stand_ins": stand_ins}, rolled_back=rolled_back)


def _kept_until(begins: dict[int, int]) -> dict[int, float]:
    """For each attempt the first step that a later one took again."""
    kept: dict[int, float] = {}
    least = float("inf")
    for attempt in sorted(begins, reverse=True):
        kept[attempt] = least
        least = min(least, begins[attempt])
    return kept


@dataclass
class Epoch:
    """Committed history of one epoch."""

    taken: int = 0
    """Places, without the repeated ones."""
    twice: list[str] = field(default_factory=list)
    """Keys that came more than once without being marked as repeated: none in a sound run."""
    repeated: int = 0
    """Places that hold a sample again, only to fill a batch."""
    stood_in: int = 0
    """Places whose sample could not be read."""


@dataclass(frozen=True)
class Audit:
    """What a ledger proves."""

    num_samples: int
    """Of the data set that was streamed."""
    attempts: int
    rolled_back: int
    """Places of steps that were taken again from a checkpoint."""
    epochs: dict[int, Epoch]

    @property
    def sound(self) -> bool:
        """Whether no sample came twice in an epoch but those that are marked as repeated."""
        return not any(epoch.twice for epoch in self.epochs.values())


def audit(folder: Path) -> Audit:
    """Count the committed history of a ledger by epoch.

    Raises:
        InvalidInput: no ledger there.
    """
    rows = read_ledger(folder)
    heads = [line for path in _files(folder) for line in _lines(path) if "from_step" in line]
    counts: dict[int, Counter[str]] = {}
    epochs: dict[int, Epoch] = {}
    rolled_back = 0
    for row in rows:
        if row.rolled_back:
            rolled_back += len(row.keys)
            continue
        for place, (epoch, key) in enumerate(zip(row.epochs, row.keys, strict=True)):
            entry = epochs.setdefault(epoch, Epoch())
            entry.stood_in += place in row.stand_ins
            if place in row.repeated:
                entry.repeated += 1
            else:
                counts.setdefault(epoch, Counter())[key] += 1
                entry.taken += 1
    for epoch, counted in counts.items():
        epochs[epoch].twice = sorted(key for key, times in counted.items() if times > 1)
    return Audit(
        num_samples=heads[-1]["num_samples"],
        attempts=len({head["attempt"] for head in heads}),
        rolled_back=rolled_back,
        epochs=dict(sorted(epochs.items())),
    )


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("rank-*.jsonl"))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines; one that a kill left unfinished is of a batch that no checkpoint has."""
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            yield json.loads(line)
        except ValueError:
            continue
