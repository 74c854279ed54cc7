"""Batches of P classes x K images with every domain in each, as a pure function of (data, seed, step).

Classes come in decks, each once a deck. A class shows its K images from all its domains in turn, and each cell, the
samples of one class in one domain, is gone through pass after pass: every sample once a pass, the next pass when that
is over. So small cells have more passes behind them than large ones, and an epoch here is a pass over one cell.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

from viewfold.errors import InvalidInput
from viewfold.pipeline.order.cells import Cells, sort_cells
from viewfold.pipeline.order.decks import Decks
from viewfold.pipeline.order.plan import Order, Places
from viewfold.pipeline.order.visits import Visits

Rows = NDArray[np.int64]


@dataclass(kw_only=True, eq=False)
class Balanced(Order):
    """At place `k * classes_per_batch + j` stands one of the K images of the j-th of the batch's P classes.

    In every batch: every domain; no class twice; of a class's K images as many from each of its domains as K allows,
    give or take one; the same over the whole batch if all classes have all domains; no row twice, unless its cell has
    fewer samples than places, and then marked as repeated; no group twice in a class where `deal` can avoid it. Two
    classes may show the same group. A row comes once in a pass, marked or not, so (row, epoch) is never seen again.

    Memory: 8 bytes for each labelled sample, 16 for each cell, and for each class 32 P + 256 K.

    Raises:
        InvalidInput: no labelled sample, fewer classes than a batch needs, or batches that could miss a domain.
    """

    label: Rows
    """`[sample]` index of the class, -1 for none; `domain` and `group` likewise. A sample without label or domain is
    never shown, but where no labelled sample has a domain, all are in one."""
    domain: Rows
    group: Rows
    identity: str
    """Hash of the manifest that the samples belong to."""
    seed: int
    classes_per_batch: int
    images_per_class: int
    domain_names: Sequence[str] = ()
    """For messages."""

    def __post_init__(self) -> None:
        if min(self.classes_per_batch, self.images_per_class) < 1:
            raise InvalidInput(
                "a balanced batch needs at least one class and one image of it, got "
                f"{self.classes_per_batch} classes x {self.images_per_class} images"
            )
        self.global_batch = self.classes_per_batch * self.images_per_class
        self._cells = sort_cells(
            self.label,
            self.domain,
            self.group,
            identity=self.identity,
            seed=self.seed,
            images_per_class=self.images_per_class,
        )
        _refuse_missing(self._cells, self.classes_per_batch, self.domain_names)
        num_domains = self._cells.num_domains
        phases = num_domains // gcd(num_domains, self.images_per_class)
        self._decks = Decks(self.identity, self.seed, self._cells.num_classes, self.classes_per_batch, phases)
        self._visits = Visits(self._cells, self._decks)

    @property
    def empty_cells(self) -> int:
        """Pairs of a class and a domain without a sample."""
        return self._cells.num_classes * self._cells.num_domains - len(self._cells.domains)

    @property
    def short_cells(self) -> int:
        """Cells with fewer samples than some batches take from them: there rows are repeated."""
        sizes, widths = np.diff(self._cells.starts), np.diff(self._cells.firsts)
        return int((sizes < np.repeat(-(-self.images_per_class // widths), widths)).sum())

    @property
    def steps_ahead(self) -> int:
        """Classes come from everywhere: some batches."""
        return 16

    def places(self, step: int, first: int, last: int) -> Places:
        classes, visits = self._decks.slots(step)
        shape = self.images_per_class, self.classes_per_batch
        all_rows, epochs, repeated = np.empty(shape, np.int64), np.empty(shape, np.int64), np.ones(shape, np.bool_)
        for index in {place % self.classes_per_batch for place in range(first, last)}:
            rows, passes = self._visits.shown(int(classes[index]), int(visits[index]))
            all_rows[:, index], epochs[:, index] = rows, passes
            repeated[np.unique(rows, return_index=True)[1], index] = False
        return Places(all_rows.ravel()[first:last], epochs.ravel()[first:last], repeated.ravel()[first:last])

    def stand_in(self, step: int, place: int, nth: int) -> tuple[int, int]:
        """The one `nth` after it in its pass, going round; after its whole cell, the other cells of its class."""
        (row,), (epoch,), _ = (part.tolist() for part in self.places(step, place, place + 1))
        found = self._cells.locate(row, int(self.label[row]))
        assert found is not None
        number, own = found
        cells = self._cells.of_class(number)
        cells = cells[own:] + cells[:own]
        start = self._cells.place(cells[0], epoch, row)
        nth %= sum(cell.size for cell in cells)
        while nth >= cells[0].size:
            nth -= cells.pop(0).size
        return int(self._cells.at(cells[0], epoch, np.array([(start + nth) % cells[0].size]))[0]), epoch

    def find(self, row: int, epoch: int) -> tuple[int, int] | None:
        """Step and place at which `row` comes in pass `epoch` over its cell; None for a sample that is never shown."""
        found = self._cells.locate(row, int(self.label[row]))
        if found is None:
            return None
        visit, image = self._visits.find(row, *found, epoch)
        step, index = self._decks.find(found[0], visit)
        return step, image * self.classes_per_batch + index


def _refuse_missing(cells: Cells, classes: int, names: Sequence[str]) -> None:
    """Raise where batches of `classes` classes could miss a domain, or there are not so many classes."""
    num_classes, num_domains, images = cells.num_classes, cells.num_domains, cells.images_per_class
    if classes > num_classes:
        raise InvalidInput(
            f"classes_per_batch={classes} is more than the {num_classes} classes with samples; use at most that"
        )
    if classes * images < num_domains:
        raise InvalidInput(
            f"a batch of {classes} classes x {images} images has {classes * images} places for {num_domains} domains; "
            "use more classes or more images of each, or leave domains out"
        )
    widths = np.diff(cells.firsts)
    # Classes with all domains go on where their neighbour ended and so meet all of them; each of the others breaks in.
    if np.count_nonzero(widths < num_domains) < min(classes, classes * images // num_domains):
        return
    having = [np.repeat(widths, widths)[cells.domains == domain] for domain in range(num_domains)]
    missed = [bool(num_classes - np.count_nonzero(its <= images) >= classes) for its in having]
    if any(missed):
        first = missed.index(True)
        index = int(cells.domain_indices[first])
        least, most = num_classes - min(map(len, having)) + 1, int(widths.max())
        raise InvalidInput(
            f"domain {names[index] if names else index} has samples of {len(having[first])} of {num_classes} classes, "
            f"so a batch of {classes} classes x {images} images could miss it; leave it out, or use {least} classes x "
            f"{most} images or more, that is classes_per_batch={least} and batch_size={least * most}"
        )
