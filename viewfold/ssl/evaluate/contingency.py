"""Scores of a clustering from its contingency table, whose rows of data may have weights.

Only the cells that occur are kept, so that thousands of clusters and classes stay cheap.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Counts = NDArray[np.float64]
Numbers = NDArray[np.int64]


class ClusterScores(NamedTuple):
    """How well a clustering agrees with the classes; 1 is perfect in each."""

    acc: float
    """Share of rows whose cluster is matched to their class, by the best one-to-one matching."""
    nmi: float
    """Mutual information over the arithmetic mean of the two entropies; far above 0 by chance with many clusters."""
    ari: float
    """Rand index over pairs of rows, adjusted to 0 by chance."""
    ami: float
    """Mutual information, adjusted to 0 by chance, over the arithmetic mean of the two entropies."""


@dataclass(frozen=True)
class Contingency:
    """The cells (cluster, class) that occur."""

    cluster: Numbers
    """`[cell]`, numbered from 0 without gaps."""
    label: Numbers
    """`[cell]`, numbered from 0 without gaps."""
    of_row: Numbers
    """`[row]`: the cell that each row falls into."""

    @classmethod
    def of(cls, predicted: ArrayLike | Tensor, label: ArrayLike | Tensor) -> "Contingency":
        """From the cluster and the class of each row, `[row]` ints of any numbering."""
        _, cluster = np.unique(np.asarray(predicted), return_inverse=True)
        _, truth = np.unique(np.asarray(label), return_inverse=True)
        cells, of_row = np.unique(np.stack([cluster, truth]), axis=1, return_inverse=True)
        return cls(cells[0], cells[1], of_row)

    def counts(self, weights: Counts | None = None) -> Counts:
        """Rows in each cell; `weights` `[row]` says how often each row counts."""
        return np.bincount(self.of_row, weights=weights, minlength=len(self.cluster)).astype(np.float64)

    def table(self, counts: Counts) -> Counts:
        """`[cluster, class]`, cells that do not occur included."""
        dense = np.zeros((self.cluster.max() + 1, self.label.max() + 1))
        dense[self.cluster, self.label] = counts
        return dense

    def margins(self, counts: Counts) -> tuple[Counts, Counts]:
        """Rows in each cluster and in each class."""
        in_cluster = np.bincount(self.cluster, weights=counts).astype(np.float64)
        return in_cluster, np.bincount(self.label, weights=counts).astype(np.float64)


def clustering_scores(predicted: ArrayLike | Tensor, label: ArrayLike | Tensor) -> ClusterScores:
    """All scores of the clusters `predicted` against the classes `label`, both `[row]` ints."""
    cells = Contingency.of(predicted, label)
    counts = cells.counts()
    acc = matched_share(counts, best_matching(cells, counts))
    return ClusterScores(acc, mutual_information(cells, counts), rand(cells, counts), adjusted(cells, counts))


def best_matching(cells: Contingency, counts: Counts) -> NDArray[np.bool_]:
    """`[cell]`: whether its cluster is matched to its class, by the one-to-one matching with the most rows in it."""
    from scipy.optimize import linear_sum_assignment

    dense = cells.table(counts)
    matched = np.zeros(dense.shape, dtype=bool)
    matched[linear_sum_assignment(dense, maximize=True)] = True
    return np.asarray(matched[cells.cluster, cells.label])


def matched_share(counts: Counts, matched: NDArray[np.bool_]) -> float:
    """Share of rows in the cells `matched`."""
    return float(counts[matched].sum() / counts.sum())


def mutual_information(cells: Contingency, counts: Counts) -> float:
    """NMI; 1 where clusters and classes are both a single one."""
    information, entropy = _information(cells, counts)
    return information / entropy if entropy > 0 else 1.0


def rand(cells: Contingency, counts: Counts) -> float:
    """ARI (Hubert & Arabie 1985); 1 where every clustering with these cluster sizes would be perfect."""
    both = _pairs(counts)
    in_cluster, in_class = (_pairs(margin) for margin in cells.margins(counts))
    expected = in_cluster * in_class / max(_pairs(counts.sum(keepdims=True)), 1.0)
    largest = (in_cluster + in_class) / 2
    return (both - expected) / (largest - expected) if largest > expected else 1.0


def adjusted(cells: Contingency, counts: Counts) -> float:
    """AMI (Vinh et al. 2010); 1 where every clustering with these cluster sizes would be perfect."""
    from sklearn.metrics.cluster import expected_mutual_information

    information, entropy = _information(cells, counts)
    clusters, classes = cells.margins(counts)
    table = cells.table(counts)[clusters > 0][:, classes > 0]
    expected = float(expected_mutual_information(table, int(counts.sum())))
    above = entropy - expected
    return (information - expected) / above if above > 1e-12 * max(entropy, 1.0) else 1.0


def _information(cells: Contingency, counts: Counts) -> tuple[float, float]:
    """Mutual information of clusters and classes, and the mean of their entropies, in nats."""
    clusters, classes = cells.margins(counts)
    entropies = [_entropy(margin) for margin in (clusters, classes)]
    # Rounding can leave a trace below 0 where there is no information.
    return max(sum(entropies) - _entropy(counts), 0.0), sum(entropies) / 2


def _entropy(counts: Counts) -> float:
    share = counts[counts > 0] / counts.sum()
    return max(float(-(share * np.log(share)).sum()), 0.0)


def _pairs(counts: Counts) -> float:
    return float((counts * (counts - 1)).sum() / 2)
