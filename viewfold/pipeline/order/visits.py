"""What each class shows every time that a batch takes it: which of its domains, and which samples of them."""

from math import gcd

import numpy as np
from numpy.typing import NDArray

from viewfold.keyed import generator
from viewfold.pipeline.order.cells import Cells, Drawn
from viewfold.pipeline.order.dealing import deal
from viewfold.pipeline.order.decks import Decks

Numbers = NDArray[np.int64]

VISITS = 16
"""Visits of a class that its samples are dealt to together: passes over a cell may overlap by so much."""


class Visits:
    """The images of a class at its visits 0, 1, 2, ... without end; any visit is computed without those before it."""

    def __init__(self, cells: Cells, decks: Decks) -> None:
        self._cells = cells
        self._decks = decks
        self._latest: dict[int, tuple[int, Drawn]] = {}

    def shown(self, number: int, visit: int) -> Drawn:
        """`[image]`: what one visit of class `number` shows."""
        block, visit = divmod(visit, VISITS)
        rows, passes = self._block(number, block)
        return Drawn(rows[visit], passes[visit])

    def find(self, row: int, number: int, cell: int, epoch: int) -> tuple[int, int]:
        """The visit that shows a row of this class and cell of the class in pass `epoch`, and which image it is."""
        images, own = self._cells.images_per_class, self._cells.of_class(number)
        draw = epoch * own[cell].size + self._cells.place(own[cell], epoch, row)
        period = self._period(number)
        whole, draw = divmod(draw, period * images // len(own))
        visits = np.arange(whole * period, (whole + 1) * period)
        drawn = np.cumsum((self._windows(number, visits) == cell).sum(axis=1))
        block = int(visits[np.searchsorted(drawn, draw, side="right")]) // VISITS
        rows, passes = self._block(number, block)
        visit, image = np.argwhere((rows == row) & (passes == epoch))[0].tolist()
        return block * VISITS + visit, image

    def _block(self, number: int, block: int) -> Drawn:
        """`[visit, image]`: what `VISITS` visits of a class show; each class's latest is kept."""
        if self._latest.get(number, (-1,))[0] != block:
            self._latest[number] = block, self._dealt(number, block)
        return self._latest[number][1]

    def _dealt(self, number: int, block: int) -> Drawn:
        cells = self._cells.of_class(number)
        windows = self._windows(number, np.arange(block * VISITS, (block + 1) * VISITS))
        before = self._drawn_before(number, block * VISITS)
        counts = np.bincount(windows.ravel(), minlength=len(cells))
        draws = [
            self._cells.draws(cell, first, first + count)
            for cell, first, count in zip(cells, before.tolist(), counts.tolist(), strict=True)
        ]
        rows, passes = map(np.concatenate, zip(*draws, strict=True))
        draw = generator("deal", self._cells.identity, self._cells.seed, number, block)
        dealt = deal(windows, rows, np.repeat(np.arange(len(cells)), counts), self._cells.group[rows], draw)
        return Drawn(rows[dealt], passes[dealt])

    def _windows(self, number: int, visits: Numbers) -> Numbers:
        """`[visit, image]`: from which of its cells a class shows images, counted within the class.

        Classes with all domains go on where their neighbour in the batch ended, the others where they ended themselves.
        """
        width, images = self._cells.width(number), self._cells.images_per_class
        turns = self._decks.phases(number, visits) if width == self._cells.num_domains else visits
        windows: Numbers = (turns[:, None] * images + np.arange(images)) % width
        return windows

    def _period(self, number: int) -> int:
        """Visits in which a class shows each of its cells equally often, counted from the first."""
        width = self._cells.width(number)
        if width == self._cells.num_domains:
            return self._decks.cycle
        return width // gcd(width, self._cells.images_per_class)

    def _drawn_before(self, number: int, visit: int) -> Numbers:
        """`[cell]`: samples that the visits before this one took from each cell of the class."""
        width, period = self._cells.width(number), self._period(number)
        start = visit // period * period
        rest = self._windows(number, np.arange(start, visit)).ravel()
        return np.bincount(rest, minlength=width) + start * self._cells.images_per_class // width
