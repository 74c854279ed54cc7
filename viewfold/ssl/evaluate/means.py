"""Means over rows with their bootstrap intervals, many columns at once: the draws of `bootstrap`, as one product."""

import numpy as np
from numpy.typing import NDArray

from viewfold.keyed import generator
from viewfold.ssl.evaluate.groups import numbered
from viewfold.ssl.evaluate.interval import Interval

_VALUES = 1 << 22  # of draws times groups, held at a time


def mean_intervals(
    columns: NDArray[np.float64], groups: NDArray[np.int64], *, seed: int = 0, num_draws: int = 1000
) -> list[Interval]:
    """Mean of each column of `[row, column]` with its 95 % percentile interval over groups drawn with replacement.

    What `bootstrap` gives for the weighted mean of each column, from the same draws; a row with group -1 is a group of
    its own. A mean needs only how often each group was drawn and what its rows sum to.
    """
    row_group, num_groups = numbered(groups)
    values = columns.mean(axis=0)
    if num_groups < 2:
        return [Interval(float(value), None, None) for value in values]
    sums = np.zeros((num_groups, columns.shape[1]))
    np.add.at(sums, row_group, columns)
    sizes = np.bincount(row_group, minlength=num_groups)
    rng = generator("bootstrap", seed)
    means = []
    for first in range(0, num_draws, block := max(1, _VALUES // num_groups)):
        count = min(block, num_draws - first)
        drawn = rng.integers(num_groups, size=(count, num_groups))
        flat = (drawn + num_groups * np.arange(count)[:, None]).ravel()
        times = np.bincount(flat, minlength=count * num_groups).reshape(count, num_groups).astype(np.float64)
        means.append(times @ sums / (times @ sizes)[:, None])
    draws = np.concatenate(means)
    ends = np.quantile(draws, [0.025, 0.975], axis=0)
    return [
        Interval(float(value), float(low), float(high), tuple(column.tolist()))
        for value, low, high, column in zip(values, *ends, draws.T, strict=True)
    ]
