"""Files that stay what they were while they are in use, whatever takes their place on the disk."""

import os
import weakref
from pathlib import Path

from viewfold.errors import InvalidInput


class HeldFile:
    """A file opened to be read at any place, by several threads too; closed with the object."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._handle)

    def fill(self, data: memoryview, offset: int) -> None:
        """Read bytes from `offset` until `data` is full.

        Raises:
            InvalidInput: the file ends before.
        """
        while data:
            done = os.preadv(self._handle, [data], offset)  # Linux moves 2 GiB at most in one call
            if not done:
                raise InvalidInput(f"{self._path}: ends at byte {offset}, {len(data)} too early; make it again")
            data, offset = data[done:], offset + done

    def read(self, size: int, offset: int) -> bytes:
        """`size` bytes from `offset`; raises as `fill`."""
        data = bytearray(size)
        self.fill(memoryview(data), offset)
        return bytes(data)
