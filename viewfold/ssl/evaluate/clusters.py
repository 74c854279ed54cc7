"""Whether clusters of the features are the classes, without having seen a label."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from viewfold.errors import InvalidInput
from viewfold.keyed import generator
from viewfold.ssl.evaluate.centroids import STARTS, k_means
from viewfold.ssl.evaluate.contingency import (
    Contingency,
    Counts,
    adjusted,
    best_matching,
    clustering_scores,
    matched_share,
    mutual_information,
    rand,
)
from viewfold.ssl.evaluate.interval import Interval, bootstrap
from viewfold.ssl.evaluate.measure import Measure, Split

_PERMUTATIONS = 20  # of the labels, for the chance level
_DRAWS = 1000
_DRAWS_AMI = 200  # its expectation under chance costs milliseconds for every draw, and seconds with a thousand classes


def clustering(split: Split, *, num_clusters: int | None = None, seed: int = 0) -> list[Measure]:
    """`clusters/acc`, `nmi`, `ari` and `ami` of k-means on the L2-normalised features of the labelled rows.

    There are as many clusters as classes unless `num_clusters` says otherwise. All labelled rows are clustered at once:
    NMI and ACC of a part of them would read higher.

    Raises:
        InvalidInput: no labels, a single class, or more clusters than labelled rows.
    """
    rows = split.labelled()
    number = len(torch.unique(rows.label)) if num_clusters is None else num_clusters
    if not 1 <= number <= len(rows.label):
        raise InvalidInput(f"clusters: num_clusters must lie in 1..{len(rows.label)}, the labelled rows, got {number}")
    predicted = k_means(F.normalize(rows.features, dim=1).numpy(), number, seed=seed)
    detail = {"clustering": "k-means", "num_starts": STARTS, "unlabelled": len(split.label) - len(rows.label)}
    return clustering_measures(predicted, rows, seed=seed, detail=detail)


def clustering_measures(
    predicted: ArrayLike | Tensor, split: Split, *, seed: int = 0, detail: dict[str, Any] | None = None
) -> list[Measure]:
    """The four scores of any clustering, `predicted` `[row]` ints, against the labels of the labelled rows of `split`.

    Chance is the mean score of the same clusters against permuted labels, which keeps the sizes of clusters and
    classes. For the interval of ACC the matching of clusters to classes is the one of all rows: choosing it again on
    every draw would add to each the optimism of choosing. A row that is drawn twice agrees with itself, which lifts
    NMI, ARI and AMI of every draw; the interval is moved down by the mean of that.

    Raises:
        InvalidInput: no labels, or a single class.
    """
    rows = split.labelled()
    found = np.asarray(predicted, dtype=np.int64)[(split.label >= 0).numpy()]
    label = rows.label.numpy()
    num_classes = len(np.unique(label))
    if num_classes < 2:
        raise InvalidInput(f"clusters: the {len(label)} labelled samples have one class; two are needed")
    rng = generator("permuted labels", seed)
    chance = np.mean([clustering_scores(found, rng.permutation(label)) for _ in range(_PERMUTATIONS)], axis=0)
    facts = {
        "clusters_found": len(np.unique(found)),
        "num_classes": num_classes,
        "num_permutations": _PERMUTATIONS,
    }
    measures = []
    for (name, statistic), by_chance in zip(_statistics(found, label).items(), chance, strict=True):
        draws = _DRAWS_AMI if name == "ami" else _DRAWS
        interval = _centred(statistic, rows.group.numpy(), seed=seed, num_draws=draws)
        measures.append(
            Measure(
                name=f"clusters/{name}",
                **interval._asdict(),
                chance=float(by_chance),
                n=len(label),
                detail=(detail or {}) | facts | {"num_draws": draws},
            )
        )
    return measures


def _statistics(
    predicted: NDArray[np.int64], label: NDArray[np.int64]
) -> dict[str, Callable[[NDArray[np.float64]], float]]:
    """Each score as a function of the rows' weights, in the order of `ClusterScores`."""
    cells = Contingency.of(predicted, label)
    matched = best_matching(cells, cells.counts())

    def weighted(score: Callable[[Contingency, Counts], float]) -> Callable[[NDArray[np.float64]], float]:
        return lambda weights: score(cells, cells.counts(weights))

    return {
        "acc": lambda weights: matched_share(cells.counts(weights), matched),
        "nmi": weighted(mutual_information),
        "ari": weighted(rand),
        "ami": weighted(adjusted),
    }


def _centred(
    statistic: Callable[[NDArray[np.float64]], float], groups: NDArray[np.int64], *, seed: int, num_draws: int
) -> Interval:
    """The bootstrap interval, moved so that the mean of its draws is the value; no score is above 1."""
    value, low, high, draws = bootstrap(statistic, groups, seed=seed, num_draws=num_draws)
    if low is None or high is None or draws is None:
        return Interval(value, None, None)
    lift = float(np.mean(draws)) - value
    return Interval(value, low - lift, min(high - lift, 1.0), tuple(draw - lift for draw in draws))
