"""The order of some rows of a data set, as if there were no others."""

import numpy as np

from viewfold.pipeline.order.plan import Order, Places, Rows


class SomeRows(Order):
    """`order` counts the chosen rows from 0; here they have the numbers that the whole data set gives them."""

    def __init__(self, rows: Rows, order: Order) -> None:
        """`rows`: int64 `[chosen]`, ascending."""
        self._rows, self._order = rows, order
        self.global_batch = order.global_batch

    @property
    def steps_ahead(self) -> int:
        return self._order.steps_ahead

    def places(self, step: int, first: int, last: int) -> Places:
        places = self._order.places(step, first, last)
        return places._replace(rows=self._rows[places.rows])

    def stand_in(self, step: int, place: int, nth: int) -> tuple[int, int]:
        chosen, epoch = self._order.stand_in(step, place, nth)
        return int(self._rows[chosen]), epoch

    def find(self, row: int, epoch: int) -> tuple[int, int] | None:
        chosen = int(np.searchsorted(self._rows, row))
        if chosen == len(self._rows) or self._rows[chosen] != row:
            return None
        return self._order.find(chosen, epoch)
