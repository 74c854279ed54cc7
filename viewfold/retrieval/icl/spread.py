"""How far features tell domains apart where they should not: the gap between domains of one class, and neighbours."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from viewfold.retrieval.index.neighbours import neighbour_table

_NEIGHBOURS = 10


class Leakage(NamedTuple):
    """How often the nearest images come from one's own domain, and how often they would if domains did not matter."""

    share: float
    base: float


def domain_gap(vectors: NDArray[np.floating[Any]], label: NDArray[np.int64], domain: NDArray[np.int64]) -> float | None:
    """Mean distance of a class's centres in two domains over the mean distance of two classes' centres in one domain.

    `vectors` are `[row, dim]` of unit length; -1 in `label` or `domain` is unknown and takes no part. 0 for features
    that keep nothing of the domain; above 1 domains are further apart than classes. None where no class is in two
    domains, or no domain has two classes.
    """
    known = (label >= 0) & (domain >= 0)
    cells, cell = np.unique(np.stack([label[known], domain[known]], 1), axis=0, return_inverse=True)
    sums = np.zeros((len(cells), vectors.shape[1]))
    np.add.at(sums, cell.ravel(), vectors[known])
    centres = sums / np.bincount(cell.ravel(), minlength=len(cells))[:, None]
    first, second = np.triu_indices(len(cells), 1)
    distance = np.linalg.norm(centres[first] - centres[second], axis=1)
    same_label, same_domain = (cells[first] == cells[second]).T
    if not same_label.any() or not same_domain.any():
        return None
    return float(distance[same_label].mean() / distance[same_domain].mean())


def neighbour_leakage(
    vectors: NDArray[np.float32], domain: NDArray[np.int64], group: NDArray[np.int64], k: int = _NEIGHBOURS
) -> Leakage | None:
    """Share of the `k` nearest rows, those of one's own group left out, that are of one's own domain.

    `vectors` are `[row, dim]` of unit length, `domain` and `group` numbers; rows of `group` -1 belong to none. `base`
    is the share among all the rows that could have been neighbours. None where no row can have one.
    """
    apart = np.where(group < 0, group.max(initial=-1) + 1 + np.arange(len(group)), group)
    rows = neighbour_table(vectors, k, apart=apart).rows
    there = rows >= 0
    own = there & (domain[rows] == domain[:, None])
    _, one = np.unique(apart, return_inverse=True)
    _, both = np.unique(np.stack([apart, domain], 1), axis=0, return_inverse=True)
    eligible = len(domain) - np.bincount(one)[one]
    eligible_own = np.bincount(domain)[domain] - np.bincount(both.ravel())[both.ravel()]
    asked = eligible > 0
    if not asked.any():
        return None
    return Leakage(
        float((own.sum(1)[asked] / there.sum(1)[asked]).mean()), float((eligible_own[asked] / eligible[asked]).mean())
    )
