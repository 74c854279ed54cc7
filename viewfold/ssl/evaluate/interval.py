"""Intervals by bootstrap over groups: what is drawn again is whole objects or patients, never their single images."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from viewfold.keyed import generator
from viewfold.ssl.evaluate.groups import numbered

Statistic = Callable[[NDArray[np.float64]], float]
"""A number computed from the rows with a weight each, `[row]` (how often the row was drawn; all ones: the data)."""


class Interval(NamedTuple):
    """A value and the ends of its interval; no ends where fewer than two groups leave nothing to draw from."""

    value: float
    low: float | None
    high: float | None


def bootstrap(
    statistic: Statistic, groups: NDArray[np.int64], *, seed: int = 0, num_draws: int = 1000, level: float = 0.95
) -> Interval:
    """Percentile interval of `statistic` when the groups of rows are drawn with replacement.

    `groups` is `[row]`; a row with group -1 is a group of its own. The draws depend on `seed` alone. Draws whose
    statistic is not finite are left out; where they are the most, there is no interval.
    """
    value = statistic(np.ones(len(groups)))
    row_group, num_groups = numbered(groups)
    if num_groups < 2:
        return Interval(value, None, None)
    rng = generator("bootstrap", seed)
    values = []
    for _ in range(num_draws):
        times = np.bincount(rng.integers(num_groups, size=num_groups), minlength=num_groups)
        values.append(statistic(times[row_group].astype(np.float64)))
    told = [value for value in values if np.isfinite(value)]  # draws of too few groups may have no answer
    if len(told) < num_draws // 2:
        return Interval(value, None, None)
    low, high = np.quantile(told, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))
