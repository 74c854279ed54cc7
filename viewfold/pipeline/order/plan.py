"""Which sample comes when: the order of training as a pure function of (data, seed, step).

The rows of a data set are cut into `lanes`, stretches of equal length, whose number belongs to the run and not to the
machines. Every global batch takes equally many samples from each lane, and a rank has some lanes' share of it: a
node reads the shards of its own lanes and no others. Inside a lane, blocks of neighbouring rows are permuted and then
shuffled in windows of a few blocks. Any place is computed from its number alone, so a position in training is one
integer, a resumed run and one on other ranks see the same batches, and memory does not grow with the data.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from viewfold.errors import InvalidInput
from viewfold.keyed import generator, key64
from viewfold.pipeline.order.permute import Permutation

Rows = NDArray[np.int64]
Tail = Literal["carry", "drop", "pad"]

WINDOW_BLOCKS = 16
"""Blocks shuffled together: 4096 rows at the default block."""


class Places(NamedTuple):
    """What stands at some places of one global batch."""

    rows: Rows
    """int64 `[place]`: row in the manifest."""
    epochs: Rows
    """int64 `[place]`: in which pass over the data."""
    repeated: NDArray[np.bool_]
    """bool `[place]`: only there to fill the batch: padding, or a cell with fewer samples than places."""


class Order(ABC):
    """An endless sequence of global batches, each a pure function of its step."""

    global_batch: int
    """Samples in every batch, over all ranks."""

    @property
    @abstractmethod
    def steps_ahead(self) -> int:
        """How many steps before they are read shards should be asked for."""

    @abstractmethod
    def places(self, step: int, first: int, last: int) -> Places:
        """The places `first` to `last` (exclusive) of the global batch of `step`."""

    @abstractmethod
    def stand_in(self, step: int, place: int, nth: int) -> tuple[int, int]:
        """Row and epoch of the `nth` (from 1) sample to take where that of `place` cannot be read."""

    @abstractmethod
    def find(self, row: int, epoch: int) -> tuple[int, int] | None:
        """Step and place at which `row` comes in `epoch`; None where it is left out."""


class Lane(NamedTuple):
    """One lane in one epoch: its number, its first row, and how many it has."""

    epoch: int
    number: int
    start: int
    size: int


@dataclass(frozen=True)
class Plan(Order):
    """Every row once an epoch, shuffled; `identity` is the hash of the manifest that the rows belong to."""

    identity: str
    num_samples: int
    global_batch: int
    seed: int = 0
    lanes: int = 1
    """Divides `global_batch`; ranks that divide it, too, need not divide the lanes."""
    block: int = 256
    """Neighbouring rows that stay within one window: smaller mixes better, larger touches fewer shards at a time."""
    tail: Tail = "carry"
    """`carry`: an epoch's last rows open the next batch. `drop`: they are left out. `pad`: some rows come twice."""
    _windows: dict[int, dict[tuple[int, int], Rows]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """By lane, the last two used of each: what is read now, and what is fetched ahead."""

    def __post_init__(self) -> None:
        if self.lanes < 1 or self.block < 1 or self.global_batch % self.lanes:
            raise InvalidInput(
                f"a plan needs lanes that divide its batch and a block of at least one, got {self.lanes} lanes, "
                f"a batch of {self.global_batch} and a block of {self.block}"
            )
        if self.num_samples < self.global_batch:
            raise InvalidInput(f"{self.num_samples} samples do not fill one batch of {self.global_batch}")

    @property
    def share(self) -> int:
        """Samples of one lane in every batch."""
        return self.global_batch // self.lanes

    @property
    def steps_per_epoch(self) -> int | None:
        """Whole batches of an epoch; None where epochs run into each other."""
        if self.tail == "carry":
            return None
        return (
            -(-self.num_samples // self.global_batch) if self.tail == "pad" else self.num_samples // self.global_batch
        )

    @property
    def steps_ahead(self) -> int:
        """A window's: lanes change windows in turn, so while one is read, as many shards come as it needs."""
        return WINDOW_BLOCKS * self.block // self.share

    def places(self, step: int, first: int, last: int) -> Places:
        parts = []
        while first < last:
            number, begin = divmod(first, self.share)
            stop = min(self.share, begin + last - first)
            parts += self._lane_places(step, number, begin, stop)
            first += stop - begin
        return Places(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def stand_in(self, step: int, place: int, nth: int) -> tuple[int, int]:
        """The one that comes `nth` after it in its lane; the shards are those that the lane reads anyway."""
        number, within = divmod(place, self.share)
        epoch, index = self._count(step, number, within)
        lane = self._lane(epoch, number)
        index = (index + nth) % lane.size
        return int(self._rows(lane, index, index + 1)[0]), epoch

    def find(self, row: int, epoch: int) -> tuple[int, int] | None:
        lane = self._lane_of(row, epoch)
        index = self._index_of(lane, row - lane.start)
        if self.tail == "carry":
            step, place = divmod(epoch * self.num_samples + self._phase(lane) + index * self.lanes, self.global_batch)
            return step, place % self.lanes * self.share + place // self.lanes
        assert self.steps_per_epoch is not None
        step, within = divmod(index, self.share)
        if step >= self.steps_per_epoch:
            return None
        return epoch * self.steps_per_epoch + step, lane.number * self.share + within

    def _lane_places(self, step: int, number: int, begin: int, stop: int) -> list[Places]:
        """Places `begin` to `stop` of a lane's share, in pieces that each lie in one epoch."""
        pieces = []
        while begin < stop:
            epoch, index = self._count(step, number, begin)
            lane = self._lane(epoch, number)
            repeated = index >= lane.size  # only a padded epoch counts on beyond its lane
            index %= lane.size
            count = min(stop - begin, lane.size - index)
            rows = self._rows(lane, index, index + count)
            pieces.append(Places(rows, np.full(count, epoch), np.full(count, repeated)))
            begin += count
        return pieces

    def _count(self, step: int, number: int, within: int) -> tuple[int, int]:
        """Epoch, and how many samples the lane gave in it before this place."""
        if self.steps_per_epoch is not None:
            epoch, step = divmod(step, self.steps_per_epoch)
            return epoch, step * self.share + within
        position = step * self.global_batch + within * self.lanes + number
        epoch, position = divmod(position, self.num_samples)
        return epoch, position // self.lanes

    def _lane(self, epoch: int, number: int) -> Lane:
        """Lanes differ by one row where they do not divide the rows; which are longer moves on from epoch to epoch."""
        size, longer = divmod(self.num_samples, self.lanes)
        first = self._first_longer(epoch)
        # The longer ones follow each other from `first` on, and go round.
        before = max(0, min(number, first + longer) - first) + min(number, max(0, first + longer - self.lanes))
        return Lane(epoch, number, number * size + before, size + ((number - first) % self.lanes < longer))

    def _lane_of(self, row: int, epoch: int) -> Lane:
        guess = min(row * self.lanes // self.num_samples, self.lanes - 1)
        near = (self._lane(epoch, number) for number in range(max(0, guess - 1), min(self.lanes, guess + 2)))
        return next(lane for lane in near if lane.start <= row < lane.start + lane.size)

    def _first_longer(self, epoch: int) -> int:
        return epoch * self.num_samples % self.lanes if self.tail == "carry" else 0

    def _phase(self, lane: Lane) -> int:
        """Position of the lane's first sample in its epoch."""
        return (lane.number - self._first_longer(lane.epoch)) % self.lanes

    def _rows(self, lane: Lane, start: int, stop: int) -> Rows:
        """The rows that stand at `start` to `stop` of the lane's order."""
        pieces = []
        while start < stop:
            index = self._window_of(lane, start // self.block)
            begin = start - self._slots(lane, index)[0] * self.block
            pieces.append(self._window(lane, index)[begin : begin + stop - start])
            start += len(pieces[-1])
        return lane.start + np.concatenate(pieces)

    def _window_of(self, lane: Lane, slot: int) -> int:
        """The window that has the lane's `slot`-th block."""
        return (slot + self._stagger(lane)) // WINDOW_BLOCKS

    def _slots(self, lane: Lane, index: int) -> tuple[int, int]:
        """The first slot of a window, and that of the next one."""
        first = index * WINDOW_BLOCKS - self._stagger(lane)
        return max(0, first), min(first + WINDOW_BLOCKS, -(-lane.size // self.block))

    def _stagger(self, lane: Lane) -> int:
        """By how many blocks the first window is shorter: lanes that all needed new shards at once would wait."""
        return lane.number * WINDOW_BLOCKS // self.lanes

    def _window(self, lane: Lane, index: int) -> Rows:
        """The rows of one window, counted from the lane's first, in their order."""
        kept, name = self._windows.setdefault(lane.number, {}), (lane.epoch, index)
        if name not in kept:
            slots, whole = np.arange(*self._slots(lane, index)), lane.size // self.block
            slots[slots < whole] = self._blocks(lane).at(slots[slots < whole])
            rows = (slots[:, None] * self.block + np.arange(self.block)).ravel()
            rows = (rows[rows < lane.size] + self._turn(lane)) % lane.size
            draw = generator("window", self.identity, self.seed, lane.epoch, lane.number, index)
            kept[name] = draw.permutation(rows)
        kept[name] = kept.pop(name)  # to the end: the one used last
        if len(kept) > 2:
            del kept[next(iter(kept))]
        return kept[name]

    def _index_of(self, lane: Lane, offset: int) -> int:
        """Where a row of the lane stands in its order."""
        block = (offset - self._turn(lane)) % lane.size // self.block
        whole = lane.size // self.block
        slot = int(self._blocks(lane).place_of(np.array([block]))[0]) if block < whole else block
        index = self._window_of(lane, slot)
        within = int(np.flatnonzero(self._window(lane, index) == offset)[0])
        return self._slots(lane, index)[0] * self.block + within

    def _blocks(self, lane: Lane) -> Permutation:
        """The order of the whole blocks; what is left of the lane comes after them."""
        return Permutation(lane.size // self.block, key64("blocks", self.identity, self.seed, *lane[:2]))

    def _turn(self, lane: Lane) -> int:
        """Where the first block begins: blocks are cut anew in every epoch, so no row is tied to the last one."""
        return key64("turn", self.identity, self.seed, *lane[:2]) % lane.size
