"""Vectors in a `.npy` file that is read and written by rows, so that no process ever holds all of them.

The file is not mapped into memory: mapped pages count as resident, and a memory cap would not hold.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from viewfold.errors import InvalidInput
from viewfold.retrieval.index.held_file import HeldFile


@dataclass(frozen=True)
class VectorFile:
    """float32 `[row, dim]` in NumPy's own format; any program reads it with `numpy.load`."""

    path: Path
    num_rows: int
    dim: int
    start: int
    """Bytes before the first row."""
    file: HeldFile
    """What is read, also when another file has taken the place of `path`."""

    @classmethod
    def create(cls, path: Path, num_rows: int, dim: int) -> "VectorFile":
        """A file of zeros, in the place of an older one."""
        with path.open("wb") as file:
            header = {"descr": npy.dtype_to_descr(np.dtype("<f4")), "fortran_order": False, "shape": (num_rows, dim)}
            npy.write_array_header_1_0(file, header)
            start = file.tell()
            file.truncate(start + num_rows * dim * 4)
        return cls(path, num_rows, dim, start, HeldFile(path))

    @classmethod
    def open(cls, path: Path) -> "VectorFile":
        """Open what `create` made.

        Raises:
            InvalidInput: the file holds something else.
        """
        with path.open("rb") as file:
            try:
                npy.read_magic(file)
                shape, by_columns, dtype = npy.read_array_header_1_0(file)
            except ValueError as error:
                raise InvalidInput(f"{path}: not a file of vectors ({error}); build it again") from None
            if len(shape) != 2 or by_columns or dtype != np.dtype("<f4"):
                raise InvalidInput(f"{path}: holds {dtype} of shape {shape}, not float32 vectors; build it again")
            return cls(path, *shape, file.tell(), HeldFile(path))

    def put(self, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Write vectors to these rows; neighbouring rows cost one write."""
        order = np.argsort(rows, kind="stable")
        rows, data = rows[order], np.ascontiguousarray(vectors[order], dtype=np.float32)
        handle = os.open(self.path, os.O_WRONLY)
        try:
            for first, last in _runs(rows):
                _write_all(handle, data[first:last].data.cast("B"), self.start + int(rows[first]) * self.dim * 4)
        finally:
            os.close(handle)

    def block(self, first: int, last: int) -> NDArray[np.float32]:
        """The rows from `first` up to and without `last`."""
        found = np.empty((last - first, self.dim), dtype=np.float32)
        self._read(found, first)
        return found

    def blocks(self, num_rows: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """First row and vectors of one block after the other, at most `num_rows` each."""
        for first in range(0, self.num_rows, num_rows):
            yield first, self.block(first, min(first + num_rows, self.num_rows))

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of these rows, in their order."""
        different, back = np.unique(rows, return_inverse=True)
        found = np.empty((len(different), self.dim), dtype=np.float32)
        for first, last in _runs(different):
            self._read(found[first:last], int(different[first]))
        return found if len(different) == len(rows) and (back[1:] > back[:-1]).all() else found[back]

    def _read(self, found: NDArray[np.float32], first: int) -> None:
        self.file.fill(found.data.cast("B"), self.start + first * self.dim * 4)


def _runs(rows: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Slices of ascending `rows` that hold consecutive numbers."""
    ends = np.flatnonzero(np.diff(rows) != 1) + 1
    bounds = [0, *ends.tolist(), len(rows)] if len(rows) else [0]
    yield from pairwise(bounds)


def _write_all(handle: int, data: memoryview, offset: int) -> None:
    while data:
        done = os.pwrite(handle, data, offset)
        data, offset = data[done:], offset + done
