"""Groups: rows that are not independent of each other, such as the views of one object."""

import numpy as np
from numpy.typing import NDArray


def numbered(groups: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Groups `[row]` renumbered from 0 without gaps, each row of group -1 getting a number of its own; their count."""
    names = np.where(groups < 0, groups.max(initial=0) + 1 + np.arange(len(groups)), groups)
    known, numbers = np.unique(names, return_inverse=True)
    return numbers, len(known)
