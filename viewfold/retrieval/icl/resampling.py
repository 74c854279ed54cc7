"""Intervals and tests for means over queries, with whole groups (patients, slides, objects) resampled together."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewfold.keyed import generator
from viewfold.retrieval.vote import Interval

_TOLERANCE = 1e-12  # sums of the same terms with other signs differ in their last bits


class GroupResampling:
    """Draws of groups for one list of queries, made once, so that every measure of these queries meets the same ones.

    The mean of a measure is that over folds of the mean over the queries of each (or over its classes, of the mean over
    the queries of each class): a fold with many queries weighs no more than one with few. A group may have queries in
    several folds; it comes and goes as a whole.
    """

    def __init__(
        self,
        groups: Sequence[str],
        folds: Sequence[str],
        *,
        seed: int = 0,
        num_resamples: int = 2000,
        num_flips: int = 2000,
    ) -> None:
        """`groups[i]` and `folds[i]` belong to query i."""
        _, self._group = np.unique(np.array(groups), return_inverse=True)
        _, self._fold = np.unique(np.array(folds), return_inverse=True)
        num_groups = int(self._group.max()) + 1
        even = np.full(num_groups, 1 / num_groups)
        self._draws = generator("group bootstrap", seed).multinomial(num_groups, even, num_resamples).astype(np.float64)
        self._signs = generator("sign flips", seed).integers(0, 2, (num_flips, num_groups)) * 2.0 - 1

    def interval(self, values: NDArray[np.floating[Any]], labels: Sequence[str] | None = None) -> Interval:
        """Mean of the `[query]` values with its 95 % percentile bootstrap interval; with `labels`, over classes."""
        sums, sizes, fold_SF = self._cells(values, labels)
        value = _mean_of_means(sums.sum(0)[None], sizes.sum(0)[None], fold_SF)[0]
        resampled = _mean_of_means(self._draws @ sums, self._draws @ sizes, fold_SF)
        low, high = np.percentile(resampled, [2.5, 97.5])
        return Interval(float(value), float(low), float(high))

    def p_value(self, differences: NDArray[np.floating[Any]]) -> float:
        """Two-sided p of a paired test: how often a mean as far from 0 comes of turning whole groups' signs at random.

        `differences` are `[query]`, one selector's outcome less another's for the same query. Turning the sign of a
        group is exchanging the two selectors for it. Never below 1 / (number of flips + 1).
        """
        sums, sizes, fold_SF = self._cells(differences, None)
        shares = (sums / sizes.sum(0)).sum(1) / fold_SF.shape[1]  # what each group adds to the mean over folds
        flipped = np.abs(self._signs @ shares) >= abs(shares.sum()) - _TOLERANCE
        return float((1 + flipped.sum()) / (1 + len(flipped)))

    def _cells(
        self, values: NDArray[np.floating[Any]], labels: Sequence[str] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Sum and number of the values of each group in each cell, `[group, cell]`, and each cell's fold, one-hot.

        A cell is a fold, or a class of a fold.
        """
        label = np.zeros(len(values), np.int64) if labels is None else np.unique(labels, return_inverse=True)[1]
        cells, cell = np.unique(np.stack([self._fold, label], 1), axis=0, return_inverse=True)
        shape = (self._draws.shape[1], len(cells))
        place = self._group * shape[1] + cell.ravel()
        number = shape[0] * shape[1]
        sums = np.bincount(place, weights=values, minlength=number).reshape(shape)
        sizes = np.bincount(place, minlength=number).reshape(shape)
        return (
            np.asarray(sums, np.float64),
            np.asarray(sizes, np.float64),
            np.eye(int(self._fold.max()) + 1)[cells[:, 0]],
        )


def _mean_of_means(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], fold_SF: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`[draw]`: mean over folds of the mean over their cells; what a draw left empty is not counted."""
    means = np.divide(sums, sizes, out=np.zeros_like(sums), where=sizes > 0)
    cells = (sizes > 0) @ fold_SF
    per_fold = np.divide(means @ fold_SF, cells, out=np.zeros_like(cells), where=cells > 0)
    mean: NDArray[np.float64] = per_fold.sum(1) / (cells > 0).sum(1)
    return mean
