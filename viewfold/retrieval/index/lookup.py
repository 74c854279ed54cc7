"""Which rows of a column hold a value: the other direction of a table, for keys, groups and digests."""

from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

UNKNOWN = -2
"""The code of a value that no row holds; no row has it, nor the -1 of a null."""


class RowsByValue:
    """Rows of each distinct value of a string column; null is nobody's value."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        """Sorts the values once; a look-up afterwards is a bisection and never reads the column."""
        encoded = column.combine_chunks().dictionary_encode()
        order = pc.sort_indices(encoded.dictionary)
        self.values: pa.StringArray = encoded.dictionary.take(order)
        """The distinct values, ascending; the code of a value is its position."""
        ranks = np.empty(len(order) + 1, dtype=np.int32)
        ranks[order.to_numpy()] = np.arange(len(order))
        ranks[-1] = -1
        self.row_codes: NDArray[np.int32] = ranks[pc.fill_null(encoded.indices, -1).to_numpy()]
        """`[row]`: the code of its value, -1 for null."""

    def codes(self, values: Sequence[str | None]) -> NDArray[np.int32]:
        """For each value its code; `UNKNOWN` for one that no row holds and for None."""
        return np.array([UNKNOWN if value is None else self._code(value) for value in values], dtype=np.int32)

    def rows(self, values: Sequence[str | None]) -> list[NDArray[np.int64]]:
        """For each value its rows in ascending order; none for an unknown value and for None."""
        return [self.rows_of(code) for code in self.codes(values).tolist()]

    def rows_of(self, code: int) -> NDArray[np.int64]:
        """The rows of one code in ascending order; none for that of null or of no value."""
        rows, starts = self._by_code
        return rows[:0] if code < 0 else rows[starts[code] : starts[code + 1]]

    def sizes(self, codes: NDArray[np.int32]) -> NDArray[np.int64]:
        """How many rows each of these codes has."""
        _, starts = self._by_code
        known = np.maximum(codes, 0)
        return np.where(codes < 0, 0, starts[known + 1] - starts[known]) if len(self.values) else np.zeros_like(codes)

    @cached_property
    def _by_code(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All rows in order of their codes, and where each code begins among them."""
        rows = np.argsort(self.row_codes, kind="stable").astype(np.int64)
        return rows, np.searchsorted(self.row_codes[rows], np.arange(len(self.values) + 1))

    def _code(self, value: str) -> int:
        place = bisect_left(_Read(self.values), value)
        return place if place < len(self.values) and self.values[place].as_py() == value else UNKNOWN


class _Read(Sequence[str]):
    """An Arrow array as Python's bisection reads it: one value at a time."""

    def __init__(self, values: pa.StringArray) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, place: int) -> str:  # type: ignore[override]  # no slices: bisection takes none
        text: str = self._values[place].as_py()
        return text
