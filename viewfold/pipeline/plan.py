"""Which row comes when: the order of training as a pure function of (data, seed, step).

Blocks of neighbouring rows are permuted, then rows are shuffled inside windows of a few blocks: reads stay near each
other in the shards, and any stretch of the order can be computed without the rest of it. A position in training is one
integer, so a resumed run and a run on another number of ranks or loader processes see the same global batches.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from viewfold.errors import InvalidInput
from viewfold.keyed import generator

Rows = NDArray[np.int64]

WINDOW_BLOCKS = 16
"""Blocks shuffled together: 4096 rows at the default block, so small data sets are shuffled as a whole."""


@dataclass(frozen=True)
class Plan:
    """The order of `num_samples` rows in every epoch; `identity` is the hash of the manifest they belong to."""

    identity: str
    num_samples: int
    seed: int
    block: int = 256
    tail: Literal["carry", "drop"] = "carry"
    """`carry`: the last rows of an epoch open the next batch. `drop`: they are left out of that epoch."""

    def __post_init__(self) -> None:
        if self.num_samples < 1 or self.block < 1:
            raise InvalidInput(
                f"a plan needs at least one sample and a block of one, got {self.num_samples} and {self.block}"
            )

    def order(self, epoch: int) -> Rows:
        """int64 `[num_samples]`: every row exactly once."""
        return self._stretch(epoch, 0, self.num_samples)

    def batch(self, step: int, global_batch: int) -> tuple[Rows, Rows]:
        """Rows and epochs, int64 `[global_batch]` each, of the global batch of `step` (from 0)."""
        if self.tail == "drop":
            steps = self.num_samples // global_batch
            if steps == 0:
                raise InvalidInput(f"{self.num_samples} samples do not fill one batch of {global_batch}")
            first = step // steps * self.num_samples + step % steps * global_batch
        else:
            first = step * global_batch
        rows, epochs, last = [], [], first + global_batch
        while first < last:
            epoch, start = divmod(first, self.num_samples)
            stop = min(self.num_samples, start + last - first)
            rows.append(self._stretch(epoch, start, stop))
            epochs.append(np.full(stop - start, epoch, dtype=np.int64))
            first += stop - start
        return np.concatenate(rows), np.concatenate(epochs)

    def _stretch(self, epoch: int, start: int, stop: int) -> Rows:
        """Positions `start` to `stop` of one epoch: only the windows that they touch are made."""
        edges = _blocks(self, epoch)[1]
        first, last = np.searchsorted(edges, [start, stop - 1], side="right").tolist()
        window = np.concatenate([_window(self, epoch, index) for index in range(first - 1, last)])
        return window[start - edges[first - 1] : stop - edges[first - 1]]


@lru_cache(maxsize=4)
def _blocks(plan: Plan, epoch: int) -> tuple[Rows, Rows]:
    """The epoch's order of blocks, and the position at which each window starts (one more at the end)."""
    num_blocks = -(-plan.num_samples // plan.block)
    blocks = generator("plan blocks", plan.identity, plan.seed, epoch).permutation(num_blocks)
    sizes = np.minimum(plan.block, plan.num_samples - blocks * plan.block)  # one block, anywhere, is the short one
    ends = np.cumsum(sizes)
    edges = np.concatenate([[0], ends[WINDOW_BLOCKS - 1 :: WINDOW_BLOCKS], ends[-1:]])
    return blocks, np.unique(edges)


@lru_cache(maxsize=8)
def _window(plan: Plan, epoch: int, index: int) -> Rows:
    blocks = _blocks(plan, epoch)[0][index * WINDOW_BLOCKS : (index + 1) * WINDOW_BLOCKS]
    rows = (blocks[:, None] * plan.block + np.arange(plan.block)).ravel()
    rows = rows[rows < plan.num_samples]
    return generator("plan window", plan.identity, plan.seed, epoch, index).permutation(rows)
