"""Whether scores and probabilities mean what they say."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def expected_calibration_error(
    probability: NDArray[np.floating[Any]], happened: NDArray[np.bool_], *, bins: int = 10
) -> float:
    """Mean over `bins` of equal width of |mean probability - frequency|, weighted by how many fall into each; 0..1."""
    place = np.clip((probability * bins).astype(np.int64), 0, bins - 1)
    gap = np.bincount(place, weights=probability - happened, minlength=bins)
    return float(np.abs(gap).sum() / len(probability))


def auroc(score: NDArray[np.floating[Any]], positive: NDArray[np.bool_]) -> float | None:
    """Chance that a positive has the higher score of the two than a negative, ties counting half; None without both."""
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if not num_positive or not num_negative:
        return None
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[place]  # equal scores share the mean of their ranks
    above = rank[positive].sum() - num_positive * (num_positive + 1) / 2
    return float(above / (num_positive * num_negative))
