"""How good chosen demonstrations are, without a multimodal model: whether they carry the query's label.

A model shown labelled neighbours mostly copies their majority (arXiv:2404.15736), so precision and the vote of the
demonstrations are near to the whole effect; `coverage` is the ceiling of any model that copies.
"""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewfold.errors import InvalidInput
from viewfold.keyed import generator
from viewfold.retrieval.index.bundle import IndexBundle
from viewfold.retrieval.selection.columns import pool_columns
from viewfold.retrieval.selection.filters import FilterConfig, eligible_rows, label_counts
from viewfold.retrieval.selection.pipeline import DemoItem, Query, SelectConfig, guarded_rows, select


@dataclass(frozen=True)
class Interval:
    """A mean over queries with its 95 % interval from resampling whole groups."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class VoteOutcomes:
    """What came out for each query; arrays are `[query]`, so that two selectors can be compared query by query."""

    k: int
    labels: list[str]
    """The true label of each query."""
    groups: list[str]
    """Its group, or its own id where it has none."""
    precision: NDArray[np.float64]
    """Share of the k demonstrations that carry the query's label; one that is missing does not."""
    correct: NDArray[np.float64]
    """1 where the vote of the demonstrations is the query's label."""
    covered: NDArray[np.float64]
    """1 where some demonstration carries the query's label."""
    chance: NDArray[np.float64]
    """Precision to expect of k images drawn at random behind the same filters and the guards of key, file, group."""
    absent: NDArray[np.bool_]
    """Where no image that these leave carries the query's label: a vote there cannot be right."""


@dataclass(frozen=True)
class VoteReport:
    """Means over the queries of one selector."""

    k: int
    num_queries: int
    num_absent: int
    """Queries whose label no eligible image carries; they count in every mean."""
    precision: Interval
    vote_accuracy: Interval
    balanced_vote_accuracy: float
    """Mean over the true labels of the vote accuracy of each."""
    coverage: Interval
    chance_precision: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a client or a report."""
        return dataclasses.asdict(self)


def majority(items: Sequence[DemoItem]) -> str | None:
    """The label most items carry; of equal ones that with the larger summed score, then the lower; None of no items."""
    votes = Counter(item.label for item in items)
    score: defaultdict[str, float] = defaultdict(float)
    for item in items:
        score[item.label] += item.score
    return min(votes, key=lambda label: (-votes[label], -round(score[label], 6), label), default=None)


def vote_outcomes(
    bundle: IndexBundle, queries: Sequence[Query], labels: Sequence[str], config: SelectConfig
) -> VoteOutcomes:
    """Select for every query and hold the demonstrations against its true label, `labels[i]` for query i.

    Raises:
        InvalidInput: no queries, or `k` is 0, which leaves nothing to vote; and all that `select` raises.
    """
    if not queries or config.k == 0:
        raise InvalidInput(f"{len(queries)} queries with k={config.k}: a vote needs queries and k of 1 or more")
    chosen = [demos.items for demos in select(bundle, queries, config)]
    matches = [sum(item.label == label for item in items) for items, label in zip(chosen, labels, strict=True)]
    shares = eligible_shares(bundle, queries, labels, exclude_group=config.exclude_group, filters=config.filters)
    return VoteOutcomes(
        k=config.k,
        labels=list(labels),
        groups=[query.id if query.group is None else query.group for query in queries],
        precision=np.array(matches) / config.k,
        correct=np.array([majority(items) == label for items, label in zip(chosen, labels, strict=True)], np.float64),
        covered=np.array([count > 0 for count in matches], np.float64),
        chance=shares,
        absent=shares == 0,
    )


def vote_report(outcomes: VoteOutcomes, *, seed: int = 0) -> VoteReport:
    """The means of the outcomes; `seed` is that of the resampling."""
    by_label = [outcomes.correct[np.array(outcomes.labels) == label].mean() for label in sorted(set(outcomes.labels))]
    return VoteReport(
        k=outcomes.k,
        num_queries=len(outcomes.labels),
        num_absent=int(outcomes.absent.sum()),
        precision=mean_interval(outcomes.precision, outcomes.groups, seed=seed),
        vote_accuracy=mean_interval(outcomes.correct, outcomes.groups, seed=seed),
        balanced_vote_accuracy=float(np.mean(by_label)),
        coverage=mean_interval(outcomes.covered, outcomes.groups, seed=seed),
        chance_precision=float(outcomes.chance.mean()),
    )


def mean_interval(
    values: NDArray[np.floating[Any]], groups: Sequence[str], *, seed: int = 0, num_resamples: int = 2000
) -> Interval:
    """Mean of the `[query]` values and its 95 % percentile bootstrap interval, whole groups being resampled.

    To compare two selectors, give the differences of their outcomes for the same queries.
    """
    _, codes = np.unique(np.array(groups), return_inverse=True)
    sums, sizes = np.bincount(codes, weights=values), np.bincount(codes)
    num_groups = len(sizes)
    draws = generator("vote interval", seed).multinomial(num_groups, np.full(num_groups, 1 / num_groups), num_resamples)
    low, high = np.percentile(draws @ sums / (draws @ sizes), [2.5, 97.5])
    return Interval(float(np.mean(values)), float(low), float(high))


def eligible_shares(
    bundle: IndexBundle,
    queries: Sequence[Query],
    labels: Sequence[str],
    *,
    exclude_group: bool,
    filters: FilterConfig | None = None,
) -> NDArray[np.float64]:
    """Share of each query's label among the images that the filters, and its guards of key, file and group, leave."""
    pool = pool_columns(bundle)
    eligible = eligible_rows(pool, filters or FilterConfig())
    totals = dict(zip(pool.label.names, label_counts(eligible, pool).tolist(), strict=True))
    codes = {name: code for code, name in enumerate(pool.label.names)}
    shares = []
    for label, guard in zip(labels, guarded_rows(bundle, queries, exclude_group=exclude_group), strict=True):
        rows = guard.rows if eligible.mask is None else guard.rows[eligible.mask[guard.rows]]
        left = eligible.total - len(rows)
        carrying = totals.get(label, 0) - np.count_nonzero(pool.label.codes[rows] == codes.get(label, -2))
        shares.append(carrying / left if left else 0.0)
    return np.array(shares)
