"""Pairs of nodes as single numbers, and runs of unequal length: what the rules are written in."""

import numpy as np
from numpy.typing import NDArray


def pair_codes(a: NDArray[np.int64], b: NDArray[np.int64], num_nodes: int) -> NDArray[np.int64]:
    """One number for each unordered pair, ascending as (smaller, larger) is; good for 3e9 nodes."""
    return np.asarray(np.minimum(a, b) * num_nodes + np.maximum(a, b))


def unique(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each number once, ascending."""
    codes = np.sort(codes)  # np.unique gives the same in ten times the time
    return codes[np.diff(codes, prepend=-1) > 0]


def within(codes: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the `codes` are among the ascending `known`."""
    if not known.size:
        return np.zeros(len(codes), dtype=bool)
    at = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    return np.asarray(known[at] == codes)


def positions_in_runs(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, ... within each run, of runs of the given lengths laid end to end: (2, 0, 3) gives 0 1 0 1 2."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) - np.repeat(starts, lengths)


def cuts(lengths: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Where to cut a list of runs so that the runs of each part hold about `most` entries, and one run at least."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.unique(np.searchsorted(ends, np.arange(most, total, most)))
