"""The parameter vector of a view: named columns in a fixed order, each drawn by key.

The address of a draw is (seed, epoch, sample key, view, column name). Adding a column, a family, a sample or a rank
changes no other draw, and NumPy's and torch's global generators are never touched.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from viewfold.keyed import key64, uniforms


def view_keys(seed: int, epochs: Sequence[int], samples: Sequence[str], view: int) -> NDArray[np.uint64]:
    """One key for each sample's view number `view`, the same whatever batch the sample sits in."""
    keys = [key64(seed, epoch, sample, view) for epoch, sample in zip(epochs, samples, strict=True)]
    return np.array(keys, dtype=np.uint64)


def draw_columns(keys: NDArray[np.uint64], ranges: Mapping[str, tuple[float, float]]) -> NDArray[np.float64]:
    """`[len(keys), len(ranges)]` numbers, column `name` uniform between the two ends of `ranges[name]`."""
    columns = [low + (high - low) * unit_column(keys, name) for name, (low, high) in ranges.items()]
    return np.stack(columns, axis=1)


def unit_column(keys: NDArray[np.uint64], name: str) -> NDArray[np.float64]:
    """`[len(keys)]` numbers in [0, 1) that belong to the column `name`."""
    # One hash a sample and view, mixed with one a column: hashing each draw would cost as much as a colour jitter.
    return uniforms(keys ^ np.uint64(key64("column", name)), 1)[:, 0]
