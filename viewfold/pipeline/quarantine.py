"""Samples that could not be read: one line each in `quarantine.jsonl`, and a budget that stops the run."""

import fcntl
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from viewfold.errors import InvalidInput, ShardError, TrainingStopped
from viewfold.pipeline.shards import Fault
from viewfold.pipeline.stage import write_whole

QUARANTINE_NAME = "quarantine.jsonl"
NO_EPOCH = -1
"""Epoch of what indexing or verifying has found."""

_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # what is suggested: nobody wants to read 0.0137


@dataclass(frozen=True)
class BadSample:
    """One sample that could not be read, and where what is wrong with it lies."""

    shard: str
    key: str
    """Key within the shard; empty where the shard itself is the problem."""
    member: int
    """Number of the stored image, or -1 where the sample's JSON or the sample as a whole cannot be read."""
    offset: int
    """Byte of the shard at which the member starts, or the damage."""
    reason: str
    epoch: int
    """Epoch in which it was met first, or `NO_EPOCH`."""

    def error(self) -> ShardError:
        """The error that names shard and key."""
        part = "" if self.epoch == NO_EPOCH else "JSON at "
        what = f"{part if self.member < 0 else f'image {self.member:02d} at '}byte {self.offset}"
        return ShardError(self.shard, f"{what}: {self.reason}", self.key or None)


class Quarantine:
    """The bad samples of a run: each is written once, whichever rank meets it, and their share is held to a budget.

    All ranks share one file; what is in it counts, so a run that is resumed goes on counting where it was. Every rank
    appends whole lines under a lock, and the rank whose sample exceeds the budget is the one that stops.
    """

    def __init__(self, path: Path | None, *, max_bad_share: float, num_samples: int) -> None:
        """`max_bad_share` is a share of the `num_samples` of the set, in 0..1; at 0 the first bad sample is an error.

        Without a `path` this rank counts for itself.
        """
        self._path = path
        self._max_bad_share = max_bad_share
        self._num_samples = num_samples
        self._known: set[tuple[str, str]] = set()
        self._position = 0

    @property
    def count(self) -> int:
        """Distinct bad samples so far, by all ranks.

        Raises:
            InvalidInput: the file holds a line that is no such record.
        """
        if self._path is not None and self._path.is_file():
            with self._path.open("rb") as file:
                self._catch_up(file)
        return len(self._known)

    def admit(self, bad: Sequence[BadSample], *, step: int) -> None:
        """Write down what is not known yet, and see whether the run may go on.

        Raises:
            ShardError: a bad sample where none is allowed.
            TrainingStopped: the share is exceeded.
            InvalidInput: the file holds a line that is no such record.
        """
        if not bad:
            return
        if self._max_bad_share == 0:
            raise bad[0].error()
        self._write(bad)
        share = len(self._known) / self._num_samples
        if share > self._max_bad_share:
            raise TrainingStopped(
                f"step {step}: {len(self._known)} bad samples of {self._num_samples} are {share:.2%}, more than the "
                f"{self._max_bad_share:.2%} of max_bad_share; the last was {bad[-1].error()}"
            )

    def _write(self, bad: Sequence[BadSample]) -> None:
        if self._path is None:
            self._known |= {(one.shard, one.key) for one in bad}
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # closing the file gives it back, also when the process is killed
            if self._catch_up(file):  # whoever wrote half a line is gone: writers hold the lock
                file.truncate(self._position)
            for one in bad:
                if (one.shard, one.key) not in self._known:
                    self._known.add((one.shard, one.key))
                    self._position += file.write(_line(one))

    def _catch_up(self, file: BinaryIO) -> bool:
        """Take in the whole lines written since; whether half a line follows them."""
        file.seek(self._position)
        data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._known |= {(bad.shard, bad.key) for bad in _parsed(whole, str(self._path))}
        self._position += len(whole)
        return len(whole) < len(data)


def read_quarantine(path: Path) -> list[BadSample]:
    """The lines of a `quarantine.jsonl`, in the order in which they were met; half a last line is not one yet.

    Raises:
        InvalidInput: a line that is not such a record, with its number.
    """
    data = path.read_bytes()
    return _parsed(data[: data.rfind(b"\n") + 1], str(path))


def write_quarantine(path: Path, faults: Sequence[Fault]) -> None:
    """A `quarantine.jsonl` of what indexing or verifying has found, in place of an older one; none where nothing is."""
    lines = [_line(BadSample(fault.shard, fault.key, -1, fault.offset, fault.reason, NO_EPOCH)) for fault in faults]
    if lines:
        write_whole(path, lambda file: file.writelines(lines))
    else:
        path.unlink(missing_ok=True)


def refuse_faults(faults: Sequence[Fault], *, found: Mapping[str, int], max_bad_share: float) -> None:
    """Whether shards may be used without the samples that `faults` leaves out; `found` counts the others by shard.

    A shard that is damaged itself is taken to have lost what it lacks of the median of those that are not: how many
    samples a cut has taken, nobody can know.

    Raises:
        ShardError: they are more than `max_bad_share` of all. Names the first, counts them, says what can be done.
    """
    bad = _num_bad(faults, found)
    total = bad + sum(found.values())
    share = bad / max(1, total)
    if share <= max_bad_share:
        return
    first = faults[0]
    ways = [
        f"`--max-bad-share {near}` (in a run: data.max_bad_share={near}) leaves them out and lists them in "
        f"{QUARANTINE_NAME}"
        for near in _above(share)
    ]
    ways.append("`viewfold data repair` writes clean shards of what is whole")
    allowed = f", more than the {max_bad_share:.2%} allowed" if max_bad_share else ""
    many = f"{bad} of {total} samples cannot be used, {share:.2%}{allowed}"
    raise ShardError(first.shard, f"byte {first.offset}: {first.reason} ({many}; {', '.join(ways)})", first.key or None)


def _num_bad(faults: Sequence[Fault], found: Mapping[str, int]) -> int:
    keys: dict[str, set[str]] = {}
    for fault in faults:
        keys.setdefault(fault.shard, set()).add(fault.key)
    whole = sorted(number for shard, number in found.items() if "" not in keys.get(shard, set()))
    usual = whole[len(whole) // 2] if whole else 0
    return sum(
        max(len(named), usual - found.get(shard, 0)) if "" in named else len(named) for shard, named in keys.items()
    )


def _above(share: float) -> list[float]:
    """The first share worth suggesting."""
    return [near for near in _SHARES if near >= share][:1]


def _line(bad: BadSample) -> bytes:
    return json.dumps(asdict(bad)).encode() + b"\n"


def _parsed(data: bytes, path: str) -> list[BadSample]:
    found = []
    for number, line in enumerate(data.splitlines(), 1):
        try:
            found.append(BadSample(**json.loads(line)))
        except (TypeError, ValueError):
            raise InvalidInput(f"{path}: line {number} is not a quarantine record") from None
    return found
