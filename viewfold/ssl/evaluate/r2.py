"""R2 of a predicted transformation: the published formula, and the one to compare models by."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.floating[Any]]


def official_r2(target: Rows, predicted: Rows, weights: Rows | None = None) -> float:
    """R2 of `[row, k]` with ONE mean over all entries, as SIE's published code has it (its rotation R2).

    A constant predictor scores above 0 as soon as the columns' means differ.
    """
    return _r2(target, predicted, weights, centre_axis=None)


def variance_weighted_r2(target: Rows, predicted: Rows, weights: Rows | None = None) -> float:
    """R2 of `[row, k]` with a mean a column: 0 for the best constant predictor, below 0 for a worse one.

    nan where all targets are equal.
    """
    return _r2(target, predicted, weights, centre_axis=0)


def _r2(target: Rows, predicted: Rows, weights: Rows | None, *, centre_axis: int | None) -> float:
    truth, guess = target.astype(np.float64), predicted.astype(np.float64)
    each = np.ones(truth.shape) if weights is None else np.broadcast_to(weights[:, None], truth.shape)
    centre = np.average(truth, axis=centre_axis, weights=each)
    spread = np.sum(each * (truth - centre) ** 2)
    return float(1 - np.sum(each * (truth - guess) ** 2) / spread) if spread else float("nan")
