"""Permutations that are computed, not stored: any place of one, and the way back, in constant memory.

Swap-or-not (Hoang, Morris, Rogaway 2012): in every round each place has a partner, and a keyed bit, the same for both,
says whether the two change places. Every size is permuted exactly; rounds undone in reverse order are the inverse.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from viewfold.keyed import mixed

_ROUNDS = 96
"""More than 6 log2(size) for all sizes below 2**16, and for billions still far beyond what an order can show."""


@dataclass(frozen=True)
class Permutation:
    """The permutation of `range(size)` that belongs to `key`."""

    size: int
    key: int

    def at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """What stands at each of `places`, int64 in 0..size-1."""
        return self._swapped(places, range(_ROUNDS))

    def place_of(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where each of `values` stands: `at(place_of(v)) == v`."""
        return self._swapped(values, reversed(range(_ROUNDS)))

    def _swapped(self, start: NDArray[np.int64], rounds: Iterable[int]) -> NDArray[np.int64]:
        x = np.asarray(start, dtype=np.int64)
        keys = mixed(np.uint64(self.key) ^ np.arange(1, _ROUNDS + 1, dtype=np.uint64))
        shifts = (keys % np.uint64(max(1, self.size))).astype(np.int64)
        for number in rounds:
            partner = (shifts[number] - x) % self.size
            bits = mixed(np.maximum(x, partner).astype(np.uint64) ^ keys[number])
            x = np.where(bits & np.uint64(1), partner, x)
        return x
