"""Samples that could not be read: one line each in `quarantine.jsonl`, and a budget that stops the run."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from viewfold.errors import InvalidInput, ShardError, TrainingStopped


@dataclass(frozen=True)
class BadSample:
    """One stored image that could not be read, and where it lies."""

    shard: str
    key: str
    """Key within the shard."""
    member: int
    """Number of the stored image, or -1 where the sample's JSON is what could not be read."""
    offset: int
    """Byte of the shard at which the member starts."""
    reason: str
    epoch: int
    """Epoch in which it was met first."""

    def error(self) -> ShardError:
        """The error that names shard and key."""
        what = f"image {self.member:02d} at byte {self.offset}" if self.member >= 0 else f"JSON at byte {self.offset}"
        return ShardError(self.shard, f"{what}: {self.reason}", self.key)


class Quarantine:
    """Counts one rank's bad samples against a budget and writes each to a file, once.

    The share is bad slots over all slots of this rank so far, but never over less than `least_slots`, one epoch's
    worth: a bad sample in the first batch is not a share of one in eight. Ranks append whole lines to one file.
    """

    def __init__(self, path: Path | None, *, max_bad_share: float, least_slots: float) -> None:
        """`max_bad_share` in 0..1; at 0 the first bad sample is an error."""
        self._path = path
        self._max_bad_share = max_bad_share
        self._least_slots = least_slots
        self._seen: set[tuple[str, str, int]] = set()
        self._num_bad = 0
        self._num_slots = 0

    def admit(self, bad_samples: list[BadSample], *, num_slots: int, step: int) -> None:
        """Account for one batch of `num_slots` samples.

        Raises:
            ShardError: a bad sample where none is allowed.
            TrainingStopped: the share is exceeded.
        """
        self._num_slots += num_slots
        if not bad_samples:
            return
        if self._max_bad_share == 0:
            raise bad_samples[0].error()
        self._num_bad += len(bad_samples)
        self._write(bad_samples)
        share = self._num_bad / max(self._num_slots, self._least_slots)
        if share > self._max_bad_share:
            raise TrainingStopped(
                f"step {step}: {self._num_bad} bad samples are {share:.2%}, more than the "
                f"{self._max_bad_share:.2%} of max_bad_share; the last was {bad_samples[-1].error()}"
            )

    def _write(self, bad_samples: list[BadSample]) -> None:
        for bad in bad_samples:
            place = (bad.shard, bad.key, bad.member)
            if self._path is not None and place not in self._seen:
                with self._path.open("a", encoding="utf-8") as file:  # one write below 4 kB is one whole line
                    file.write(json.dumps(asdict(bad)) + "\n")
            self._seen.add(place)


def read_quarantine(path: Path) -> list[BadSample]:
    """The lines of a `quarantine.jsonl`, in the order in which they were met.

    Raises:
        InvalidInput: a line that is not such a record, with its number.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            found.append(BadSample(**json.loads(line)))
        except (TypeError, ValueError):
            raise InvalidInput(f"{path}: line {number} is not a quarantine record") from None
    return found
