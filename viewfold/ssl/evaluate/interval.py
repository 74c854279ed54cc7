"""Intervals by bootstrap over groups: what is drawn again is whole objects or patients, never their single images."""

from collections.abc import Callable, Sequence
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
    draws: tuple[float, ...] | None = None
    """The value of every draw. Draws of the same seed are of the same groups where the rows have the same groups, so
    two of these lie side by side, draw by draw: see `difference`."""


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
    return _percentiles(value, values, level)


def difference(own: Interval, other: Interval, *, level: float = 0.95) -> Interval:
    """What `own` is above `other`, with the percentile interval of the differences of their draws.

    Both are of the same rows and drawn with the same seed: what both find hard in a draw then cancels. No ends where
    one of them has no draws.

    Raises:
        ValueError: they have different numbers of draws.
    """
    value = own.value - other.value
    if own.draws is None or other.draws is None:
        return Interval(value, None, None)
    return _percentiles(value, [a - b for a, b in zip(own.draws, other.draws, strict=True)], level)


def _percentiles(value: float, draws: Sequence[float], level: float) -> Interval:
    told = [draw for draw in draws if np.isfinite(draw)]  # draws of too few groups may have no answer
    if len(told) < len(draws) // 2:
        return Interval(value, None, None)
    low, high = np.quantile(told, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), tuple(draws))
