"""Plain and class-balanced accuracy from right and wrong answers, each beside its chance level."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from viewfold.ssl.evaluate.interval import bootstrap
from viewfold.ssl.evaluate.measure import Measure, Split


def accuracy_measures(
    name: str, split: Split, hits: Tensor, *, blind_hits: Tensor, seed: int, detail: dict[str, Any]
) -> list[Measure]:
    """`name` and `name_balanced` (mean over classes of the accuracy within each, classes of `split` only).

    `hits` and `blind_hits` are bool `[row]`: whether the predictor, and the best guess from the training labels
    alone, got each row of `split` right. The latter gives the chance level.
    """
    label, groups = split.label.numpy(), split.group.numpy()
    right, blind = hits.numpy().astype(np.float64), blind_hits.numpy().astype(np.float64)
    one = np.ones(len(label))

    def plain(weights: NDArray[np.float64]) -> float:
        return float(np.average(right, weights=weights))

    def balanced(weights: NDArray[np.float64]) -> float:
        return balanced_accuracy(right, label, weights)

    return [
        Measure(
            name=full_name,
            **bootstrap(statistic, groups, seed=seed)._asdict(),
            chance=chance,
            n=len(label),
            detail=detail | {"num_classes": len(np.unique(label))},
        )
        for full_name, statistic, chance in (
            (name, plain, float(np.mean(blind))),
            (f"{name}_balanced", balanced, balanced_accuracy(blind, label, one)),
        )
    ]


def balanced_accuracy(right: NDArray[np.float64], label: NDArray[np.int64], weights: NDArray[np.float64]) -> float:
    """Mean over the classes that have any weight of the weighted share of right answers."""
    rows = np.bincount(label, weights=weights)
    present = rows > 0
    return float(np.mean(np.bincount(label, weights=weights * right)[present] / rows[present]))
