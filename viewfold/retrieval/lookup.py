"""Which rows of a column hold a value: the other direction of a table, for keys, groups and digests."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


class RowsByValue:
    """Rows of each distinct value of a string column; null is nobody's value."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        """Sorts the rows by value once; every look-up afterwards is a slice."""
        encoded = column.combine_chunks().dictionary_encode()
        codes = pc.fill_null(encoded.indices, -1).to_numpy()
        self._values = encoded.dictionary
        self._rows = np.argsort(codes, kind="stable").astype(np.int64)
        self._starts = np.searchsorted(codes[self._rows], np.arange(len(self._values) + 1))

    def rows(self, values: Sequence[str | None]) -> list[NDArray[np.int64]]:
        """For each value its rows in ascending order; none for an unknown value and for None."""
        codes = pc.index_in(pa.array(values, pa.string()), value_set=self._values).to_pylist()
        return [self._rows[:0] if code is None else self._rows_of(code) for code in codes]

    def _rows_of(self, code: int) -> NDArray[np.int64]:
        return self._rows[self._starts[code] : self._starts[code + 1]]
