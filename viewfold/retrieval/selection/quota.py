"""Quotas: how many demonstrations of a class or a domain there may or must be, met greedily in score order."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from viewfold.config import Config


@dataclass(frozen=True, kw_only=True)
class QuotaConfig(Config):
    """How choices are spread over classes or domains."""

    rule: Literal["none", "min_per_class", "max_per_class", "proportional_to_posterior", "domain_round_robin"] = "none"
    """`proportional_to_posterior` gives each class seats by the softmax vote of the candidates; `domain_round_robin`
    takes the nearest of each domain, then the second of each."""
    per_class: int = 1
    """For `min_per_class` and `max_per_class`."""
    temperature: float = 0.1
    """For `proportional_to_posterior`: a candidate's weight is exp(cosine / temperature)."""

    def __post_init__(self) -> None:
        if self.per_class < 1 or self.temperature <= 0:
            raise ValueError(
                f"per_class must be 1 or more and temperature above 0, got {self.per_class} and {self.temperature}"
            )

    @property
    def column(self) -> Literal["label", "domain"]:
        """What is counted."""
        return "domain" if self.rule == "domain_round_robin" else "label"


@dataclass(frozen=True, eq=False)
class Tally:
    """Choices counted by value, for a batch of queries; values are numbered within each query."""

    value: NDArray[np.int64]
    """`[query, candidate]`: number of its label or domain among those of the query's candidates."""
    available: NDArray[np.int64]
    """`[query, value]`: candidates that may be chosen, whether they are yet or not."""
    chosen: NDArray[np.int64]
    """`[query, value]`: counted up as choices are made."""
    seats: NDArray[np.int64]
    """`[query, value]`: the most, or for `min_per_class` the fewest, that there are to be."""


def tally(
    config: QuotaConfig,
    codes: NDArray[np.int32],
    scores: NDArray[np.float64],
    open_: NDArray[np.bool_],
    k: int,
) -> Tally:
    """Begin to count: `[query, candidate]` codes of labels or domains, cosines, and which candidates may be chosen."""
    value = _numbered(codes)
    available = np.zeros(codes.shape, dtype=np.int64)
    np.add.at(available, (np.arange(len(codes))[:, None], value), open_)
    if config.rule == "proportional_to_posterior":
        seats = _posterior_seats(config, value, scores, open_, available, k)
    else:
        seats = np.minimum(available, config.per_class)
    return Tally(value, available, np.zeros_like(available), seats)


def admitted(config: QuotaConfig, counted: Tally, open_: NDArray[np.bool_], remaining: int) -> NDArray[np.bool_]:
    """Which of the candidates still `open_` the rule lets be chosen next, `remaining` choices being left."""
    if config.rule == "none":
        return open_
    if config.rule == "domain_round_robin":
        left = counted.available > counted.chosen
        least = np.where(left, counted.chosen, np.iinfo(np.int64).max).min(axis=1)
        behind: NDArray[np.bool_] = np.take_along_axis(counted.chosen, counted.value, 1) == least[:, None]
        return np.logical_and(open_, behind)
    wanting = np.maximum(counted.seats - counted.chosen, 0)
    wanted = np.take_along_axis(wanting, counted.value, 1) > 0
    if config.rule == "min_per_class":
        wanted = wanted | (remaining > wanting.sum(axis=1))[:, None]
    return np.logical_and(open_, wanted)


def _numbered(codes: NDArray[np.int32]) -> NDArray[np.int64]:
    """Codes replaced by 0, 1, ... within each row."""
    span = int(codes.max()) + 2
    pairs = (np.arange(len(codes))[:, None] * span + codes + 1).ravel()
    distinct, places = np.unique(pairs, return_inverse=True)
    first = np.searchsorted(distinct, np.arange(len(codes)) * span)
    numbers: NDArray[np.int64] = places.reshape(codes.shape) - first[:, None]
    return numbers


def _posterior_seats(
    config: QuotaConfig,
    value: NDArray[np.int64],
    scores: NDArray[np.float64],
    open_: NDArray[np.bool_],
    available: NDArray[np.int64],
    k: int,
) -> NDArray[np.int64]:
    """Seats one by one to the class with the most votes for each seat it would then have (Sainte-Lague), as far as it
    has candidates."""
    votes = np.zeros(value.shape)
    best = np.where(open_, scores, -np.inf).max(axis=1, initial=-1, keepdims=True)
    weights = np.where(open_, np.exp((np.where(open_, scores, best) - best) / config.temperature), 0)
    np.add.at(votes, (np.arange(len(value))[:, None], value), weights)
    seats = np.zeros_like(available)
    each = np.arange(len(value))
    for _ in range(k):
        claim = np.where(seats < available, (votes + 1e-300) / (2 * seats + 1), 0).round(12)
        winner = claim.argmax(axis=1)
        seats[each, winner] += seats[each, winner] < available[each, winner]
    return seats
