"""What each rank consumed, written down: for people who must prove that every sample came exactly once.

A folder with a file for each rank. Every start of the worker group is an attempt; it writes one line with the step it
begins at, then one line for each batch that the training took; on a CPU that is while it is busy with the batch before.
Steps that an attempt takes again were rolled back to the last checkpoint, so the earlier lines of these steps are
history that was not kept. The steps after the last checkpoint of a run that was killed count as kept until they are
taken again.
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
class Attempt:
    """One start of the group of workers."""

    attempt: int
    from_step: int
    world_size: int
    manifest_hash: str
    num_samples: int
    """Of the data set that is streamed."""


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
            InvalidInput: the folder has this attempt already: it is another run's; or it cannot be written.
        """
        self._rank, self._attempt = rank, attempt
        self._path = folder / f"rank-{rank:05d}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(head.attempt >= attempt for head in _heads(self._path)):
                raise InvalidInput(
                    f"{folder}: holds the ledger of another run; remove it, or name another stream.ledger"
                )
            _mend(self._path)
        except OSError as error:
            raise InvalidInput(
                f"stream.ledger={folder}: cannot be written ({error.strerror}); name another folder"
            ) from None

    def begin(self, *, step: int, world_size: int, manifest_hash: str, num_samples: int) -> None:
        """Note that this attempt goes on from `step`: what earlier ones took of it or after it was rolled back."""
        facts = {"world_size": world_size, "manifest_hash": manifest_hash, "num_samples": num_samples}
        self._append({"from_step": step, "attempt": self._attempt, **facts})

    def take(self, step: int, places: Places, batch: Batch, *, key_of: Callable[[int], str]) -> None:
        """Note what the training is handed at `step`: by the samples that the order has at these places."""
        planned, taken = places.rows.tolist(), batch.rows.tolist()
        stood_in = [place for place, (row, wanted) in enumerate(zip(taken, planned, strict=True)) if row != wanted]
        keys = list(batch.keys)
        for place in stood_in:
            keys[place] = key_of(planned[place])
        self._append(
            {
                "step": step,
                "attempt": self._attempt,
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
    if path.is_file() and path.stat().st_size:
        with path.open("r+b") as file:
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")


def read_ledger(folder: Path) -> Iterator[Taken]:
    """Every line, rank by rank; those of steps that were rolled back are marked as such.

    Raises:
        InvalidInput: no ledger there, or a file that is none.
    """
    kept_until = _kept_until(attempts(folder))
    for path in _files(folder):
        for line in _lines(path, b'{"step"'):
            try:
                stand_ins = {int(place): key for place, key in line["stand_ins"].items()}
                rolled_back = line["step"] >= kept_until[line["attempt"]]
                yield Taken(**{**line, "stand_ins": stand_ins}, rolled_back=rolled_back)
            except (KeyError, TypeError, AttributeError) as error:
                raise InvalidInput(f"{path}: not a ledger ({error})") from None


def attempts(folder: Path) -> dict[int, Attempt]:
    """The attempts of a ledger, by their number.

    Raises:
        InvalidInput: no ledger there, or a file that is none.
    """
    found = {head.attempt: head for path in _files(folder) for head in _heads(path)}
    if not found:
        raise InvalidInput(f"{folder}: no ledger there; train with stream.ledger={folder} to write one")
    return dict(sorted(found.items()))


def _kept_until(heads: dict[int, Attempt]) -> dict[int, float]:
    """For each attempt the first step that a later one took again."""
    kept: dict[int, float] = {}
    least = float("inf")
    for number in sorted(heads, reverse=True):
        kept[number] = least
        least = min(least, heads[number].from_step)
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
    holes: list[tuple[int, int]]
    """Steps and ranks without a line, up to the last step that has one: none in a run that ended."""

    @property
    def sound(self) -> bool:
        """Whether every rank wrote down every step, and no sample came twice in an epoch but the repeated ones."""
        return not self.holes and not any(epoch.twice for epoch in self.epochs.values())


def audit(folder: Path) -> Audit:
    """Count the committed history of a ledger by epoch.

    Raises:
        InvalidInput: no ledger there, or a file that is none.
    """
    heads = attempts(folder)
    counts: dict[int, Counter[str]] = {}
    epochs: dict[int, Epoch] = {}
    ranks: dict[int, set[int]] = {}
    rolled_back = 0
    for row in read_ledger(folder):
        if row.rolled_back:
            rolled_back += len(row.keys)
            continue
        ranks.setdefault(row.step, set()).add(row.rank)
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
        num_samples=next(iter(heads.values())).num_samples,
        attempts=len(heads),
        rolled_back=rolled_back,
        epochs=dict(sorted(epochs.items())),
        holes=_holes(heads, ranks),
    )


def _holes(heads: dict[int, Attempt], ranks: dict[int, set[int]]) -> list[tuple[int, int]]:
    """Each step belongs to the last attempt that began at it or before, and that attempt's ranks all took it."""
    begins = {head.from_step: head.world_size for head in heads.values()}  # of two with one first step, the later
    holes, size = [], 0
    for step in range(max(ranks, default=-1) + 1):
        size = begins.get(step, size)
        holes += [(step, rank) for rank in range(size) if rank not in ranks.get(step, ())]
    return holes


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("rank-*.jsonl"))


def _heads(path: Path) -> Iterator[Attempt]:
    for line in _lines(path, b'{"from_step"'):
        try:
            yield Attempt(**line)
        except TypeError as error:
            raise InvalidInput(f"{path}: not a ledger ({error})") from None


def _lines(path: Path, begin: bytes) -> Iterator[dict[str, Any]]:
    """Whole lines of one kind; one that a kill left unfinished is of a batch that no checkpoint has."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            if line.startswith(begin) and line.endswith(b"}\n"):
                try:
                    yield json.loads(line)
                except ValueError:
                    raise InvalidInput(f"{path}: not a ledger; name the folder of stream.ledger") from None
