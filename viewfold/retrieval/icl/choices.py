"""What a selector chose for many queries, as arrays, and how good that is without asking any model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from viewfold.retrieval.index.bundle import IndexBundle
from viewfold.retrieval.selection.pipeline import DemoSet

_CHUNK = 1 << 22  # numbers gathered at a time for the pairs of a prompt
_DECIMALS = 6  # summed scores that differ by less are equal


class Coded(NamedTuple):
    """Names as numbers in their sorted order."""

    names: list[str]
    codes: NDArray[np.int64]
    """`[row]`, -1 for none."""

    @classmethod
    def of(cls, column: Sequence[str | None]) -> "Coded":
        """Of a column of names."""
        names = sorted({name for name in column if name is not None})
        number = {name: code for code, name in enumerate(names)}
        return cls(names, np.array([-1 if name is None else number[name] for name in column], dtype=np.int64))

    def code(self, names: Sequence[str]) -> NDArray[np.int64]:
        """The numbers of other `names`; -2 for one that is not among these."""
        number = {name: code for code, name in enumerate(self.names)}
        return np.array([number.get(name, -2) for name in names], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Choices:
    """The pool images chosen for each query, first choice first; fewer choices are the first columns of more."""

    rows: NDArray[np.int64]
    """`[query, k]`: row in the pool's bundle, -1 where no more were to be had."""
    scores: NDArray[np.float64]
    """`[query, k]`: cosine to the query; 0 where there is no row."""
    p_match: NDArray[np.float64] | None = None
    """`[query, k]`: probability that it carries the query's label; None where the selector was not calibrated."""

    @property
    def k(self) -> int:
        """How many were asked for."""
        return int(self.rows.shape[1])

    def first(self, k: int) -> "Choices":
        """The first `k` choices of each query."""
        return Choices(self.rows[:, :k], self.scores[:, :k], None if self.p_match is None else self.p_match[:, :k])

    def matches(self, pool: "Pool", labels: Sequence[str]) -> NDArray[np.bool_]:
        """`[query, k]`: whether each choice carries the query's label; `labels` are the true ones."""
        carried: NDArray[np.bool_] = pool.label.codes[self.rows] == pool.label.code(labels)[:, None]
        return carried & (self.rows >= 0)

    @classmethod
    def of(cls, bundle: IndexBundle, chosen: Sequence[DemoSet], k: int) -> "Choices":
        """Of what `select` answered when asked for `k`, in whatever prompt order."""
        rows, scores = np.full((len(chosen), k), -1, dtype=np.int64), np.zeros((len(chosen), k))
        items = [(query, item) for query, demos in enumerate(chosen) for item in demos.items]
        found = np.array([row[0] for row in bundle.by_key.rows([item.key for _, item in items])], dtype=np.int64)
        query = np.array([number for number, _ in items], dtype=np.int64)
        rank = np.array([item.rank - 1 for _, item in items], dtype=np.int64)
        rows[query, rank] = found
        scores[query, rank] = [item.score for _, item in items]
        if any(item.p_match is None for _, item in items):
            return cls(rows, scores)
        p_match = np.zeros(scores.shape)
        p_match[query, rank] = [item.p_match for _, item in items]
        return cls(rows, scores, p_match)


@dataclass(frozen=True, eq=False)
class Pool:
    """What the measures read of the images that are chosen from."""

    label: Coded
    domain: Coded
    base_vectors: NDArray[np.float32]
    """`[row, dim]`, unit length, of the encoder from before adaptation: one space for all selectors."""


class _Votes(NamedTuple):
    """The labels of the demonstrations of each query, and who has how many."""

    label: NDArray[np.int64]
    """`[query, k]`, -1 where there is none."""
    counts: NDArray[np.int64]
    """`[query, label]`."""
    scores: NDArray[np.float64]
    """`[query, k]`."""
    tau: float


def _majority(votes: _Votes) -> NDArray[np.int64]:
    """The label with most votes; of equal ones that with the larger summed cosine, then the lower."""
    sums = _weighted(votes, votes.scores).round(_DECIMALS)
    best: NDArray[np.int64] = np.where(_tied(votes), sums, -np.inf).argmax(1)
    return best


def _copied(votes: _Votes) -> NDArray[np.int64]:
    """The label with most votes; of equal ones that of the first choice, which `nearest_last` shows last."""
    leads = (votes.label >= 0) & np.take_along_axis(_tied(votes), np.maximum(votes.label, 0), 1)
    best: NDArray[np.int64] = np.take_along_axis(votes.label, leads.argmax(1)[:, None], 1)[:, 0]
    return best


def _soft(votes: _Votes) -> NDArray[np.int64]:
    """The label with the largest sum of exp(cosine / tau)."""
    weights = np.exp((votes.scores - votes.scores.max(1, keepdims=True)) / votes.tau)
    best: NDArray[np.int64] = _weighted(votes, weights).argmax(1)
    return best


def _nearest(votes: _Votes) -> NDArray[np.int64]:
    """The label of the first choice."""
    return votes.label[:, 0]


VOTES: Mapping[str, Callable[[_Votes], NDArray[np.int64]]] = {
    "vote": _majority,
    "soft_vote": _soft,
    "copied_vote": _copied,
    "last_demo": _nearest,
}
"""Ways to answer with nothing but the demonstrations' labels; each gives `[query]` labels."""


def demo_measures(
    choices: Choices, pool: Pool, labels: Sequence[str], *, vote_tau: float
) -> dict[str, NDArray[np.float64]]:
    """Every measure of the choices as `[query]`, by name; `labels` are the true ones, `vote_tau` that of `soft_vote`.

    `precision`: share of the k that carry the query's label, a missing one does not. `coverage`: 1 where one does.
    `vote`, `soft_vote`, `copied_vote`, `last_demo` (see `VOTES`): 1 where that answer is right; no choices, no answer.
    `label_entropy` in nats; `domain_concentration`: largest share of one domain; `redundancy` (of 2 and more): mean
    cosine between two of them as the base encoder sees them; `fill_rate`: share of the k that were to be had;
    `top_score`: cosine of the first choice.
    """
    there = choices.rows >= 0
    number = there.sum(1)
    answerable = number > 0
    label = np.where(there, pool.label.codes[choices.rows], -1)
    truth = pool.label.code(labels)
    match = choices.matches(pool, labels)
    votes = _Votes(label, _counted(label, len(pool.label.names)), choices.scores, vote_tau)
    measures = {name: (answerable & (answer(votes) == truth)).astype(np.float64) for name, answer in VOTES.items()}
    measures["precision"] = match.sum(1) / choices.k
    measures["coverage"] = match.any(1).astype(np.float64)
    measures["label_entropy"] = _entropy(votes.counts)
    domains = _counted(np.where(there, pool.domain.codes[choices.rows], -1), len(pool.domain.names))
    if domains.shape[1]:
        measures["domain_concentration"] = domains.max(1) / np.maximum(number, 1)
    if choices.k > 1:
        measures["redundancy"] = _redundancy(choices.rows, pool.base_vectors)
    measures["fill_rate"] = number / choices.k
    measures["top_score"] = choices.scores[:, 0]
    return measures


def _tied(votes: _Votes) -> NDArray[np.bool_]:
    """`[query, label]`: who has the most votes."""
    tied: NDArray[np.bool_] = votes.counts == votes.counts.max(1, keepdims=True)
    return tied


def _weighted(votes: _Votes, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[query, label]`: sum of the weights of each label's demonstrations."""
    sums = np.zeros(votes.counts.shape)
    query, rank = np.nonzero(votes.label >= 0)
    np.add.at(sums, (query, votes.label[query, rank]), weights[query, rank])
    return sums


def _counted(codes: NDArray[np.int64], num_codes: int) -> NDArray[np.int64]:
    """`[query, code]`: how often each code stands in each row; -1 is nobody's."""
    counts = np.zeros((len(codes), num_codes), dtype=np.int64)
    query, rank = np.nonzero(codes >= 0)
    np.add.at(counts, (query, codes[query, rank]), 1)
    return counts


def _entropy(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    entropy: NDArray[np.float64] = -(share * np.log(np.where(share > 0, share, 1.0))).sum(1)
    return entropy + 0.0  # -0.0 of a single label is 0


def _redundancy(rows: NDArray[np.int64], vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Mean cosine over the pairs of each row: of unit vectors, (|sum|^2 - n) / (n (n - 1)); 1 where none is."""
    result = np.ones(len(rows))
    step = max(1, _CHUNK // (rows.shape[1] * vectors.shape[1]))
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        there = chunk >= 0
        n = there.sum(1)
        total = (vectors[chunk] * there[:, :, None]).sum(1, dtype=np.float64)
        pairs = np.einsum("qd,qd->q", total, total) - n
        result[start : start + step] = np.divide(pairs, n * (n - 1), out=np.ones(len(chunk)), where=n > 1)
    return result
