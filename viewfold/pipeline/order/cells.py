"""The labelled samples by class and domain, and the order in which each such cell is gone through, pass after pass."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from viewfold.errors import InvalidInput
from viewfold.keyed import generator, key64
from viewfold.pipeline.order.permute import Permutation

Rows = NDArray[np.int64]

_WHOLE = 1 << 13
"""Cells up to this size are shuffled whole (0.1 ms); of larger ones single places are computed (0.8 ms)."""


class Cell(NamedTuple):
    """The samples of one class in one domain."""

    number: int
    size: int
    steady: bool
    """Every pass has the same order."""


class Drawn(NamedTuple):
    """Samples drawn: rows, and the pass over its cell that each of them belongs to."""

    rows: Rows
    passes: Rows


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """Classes and domains that have samples, numbered from 0 in their order."""

    identity: str
    seed: int
    images_per_class: int
    """So many samples of a class go into a batch, as evenly from its cells as that allows."""
    group: Rows
    """`[row]` as it was given."""
    rows: Rows
    """By cell, and ascending in each."""
    starts: Rows
    """`[cell + 1]` where each begins in `rows`, and the end."""
    labels: Rows
    """`[class]` the label of each."""
    firsts: Rows
    """`[class + 1]` the first cell of each class, and the end."""
    domains: Rows
    """`[cell]` number of its domain, ascending in a class."""
    domain_indices: Rows
    """`[domain]` the index that it was given with."""

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    @property
    def num_domains(self) -> int:
        return len(self.domain_indices)

    def width(self, number: int) -> int:
        """In how many domains a class has samples."""
        return int(self.firsts[number + 1] - self.firsts[number])

    def of_class(self, number: int) -> list[Cell]:
        """The cells of one class.

        Where a cell has twice as many samples as a batch takes from it, every pass has an order of its own; where it
        has less, a pass could begin with what the last one ended with, in one batch, so there the order stays.
        """
        places = -(-self.images_per_class // self.width(number))
        numbers = range(self.firsts[number], self.firsts[number + 1])
        sizes = [int(self.starts[cell + 1] - self.starts[cell]) for cell in numbers]
        return [Cell(cell, size, size < 2 * places) for cell, size in zip(numbers, sizes, strict=True)]

    def locate(self, row: int, label: int) -> tuple[int, int] | None:
        """Class of a row with this label, and which of the class's cells holds it; None for one that was left out."""
        number = int(np.searchsorted(self.labels, label))
        if number == self.num_classes or self.labels[number] != label:
            return None
        for cell in range(self.firsts[number], self.firsts[number + 1]):
            rows = self.rows[self.starts[cell] : self.starts[cell + 1]]
            place = np.searchsorted(rows, row)
            if place < len(rows) and rows[place] == row:
                return number, int(cell - self.firsts[number])
        return None

    def draws(self, cell: Cell, first: int, last: int) -> Drawn:
        """The draws `first` to `last` (exclusive) from the cell, counted from the first ever."""
        passes, places = np.divmod(np.arange(first, last), cell.size)
        rows = np.empty_like(places)
        for number in range(first // cell.size, -(-last // cell.size)):
            rows[passes == number] = self.at(cell, number, places[passes == number])
        return Drawn(rows, passes)

    def at(self, cell: Cell, number: int, places: Rows) -> Rows:
        """The rows at these places of pass `number`."""
        key = self._key(cell, number)
        small = cell.size <= _WHOLE
        order = _shuffled(cell.size, key)[places] if small else Permutation(cell.size, key).at(places)
        rows: Rows = self.rows[self.starts[cell.number] + order]
        return rows

    def place(self, cell: Cell, number: int, row: int) -> int:
        """Where `row` of the cell stands in pass `number`."""
        key, start = self._key(cell, number), self.starts[cell.number]
        offset = np.searchsorted(self.rows[start : start + cell.size], [row])
        if cell.size <= _WHOLE:
            return int(np.flatnonzero(_shuffled(cell.size, key) == offset)[0])
        return int(Permutation(cell.size, key).place_of(offset)[0])

    def _key(self, cell: Cell, number: int) -> int:
        return key64("cell", self.identity, self.seed, cell.number, 0 if cell.steady else number)


def sort_cells(label: Rows, domain: Rows, group: Rows, *, identity: str, seed: int, images_per_class: int) -> Cells:
    """Samples without label are left out, and those without domain; where no labelled one has any, that is one domain.

    Raises:
        InvalidInput: nothing is left.
    """
    used = np.flatnonzero(label >= 0)
    if (domain[used] >= 0).any():
        used = used[domain[used] >= 0]
    if not len(used):
        raise InvalidInput(
            f"balanced batches need labels and none of the {len(label)} samples has one; record them as `label` in "
            "each sample's JSON, as a .cls member, or import the images from a folder per class"
        )
    indices, domains = np.unique(domain[used], return_inverse=True)
    order = np.lexsort((domains, label[used]))
    rows, domains = used[order], domains[order]
    starts = np.flatnonzero(np.diff(label[rows] * len(indices) + domains, prepend=-1))
    labels, firsts = np.unique(label[rows[starts]], return_index=True)
    return Cells(
        identity=identity,
        seed=seed,
        images_per_class=images_per_class,
        group=group,
        rows=rows,
        starts=np.append(starts, len(rows)),
        labels=labels,
        firsts=np.append(firsts, len(starts)),
        domains=domains[starts],
        domain_indices=indices,
    )


def _shuffled(size: int, key: int) -> Rows:
    return generator("order", key).permutation(size)
