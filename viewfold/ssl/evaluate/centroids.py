"""k-means as every protocol here runs it: ten fixed starts, the best of them by its own objective."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewfold.keyed import key64

STARTS = 10
"""Of k-means."""


def k_means(points: NDArray[np.floating[Any]], num_clusters: int, *, seed: int = 0) -> NDArray[np.int64]:
    """`[row]`: the cluster of each of the `[row, dim]` points, in 0..`num_clusters` - 1.

    Points with fewer distinct rows than clusters leave some clusters empty.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    means = KMeans(num_clusters, n_init=STARTS, random_state=key64("k-means", seed) % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # said of few distinct rows
        return np.asarray(means.fit_predict(points), dtype=np.int64)
