"""How far queries have drifted from the images of an index: PSI and KS between counts, and what chance alone makes.

Counts of queries are held against counts of the index's own images, by how similar the nearest image is and by the
domain that it is of. No query is kept, nor its vector: counts by bin are all that is needed.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from viewfold.retrieval.index.bundle import ScoreHistogram

EMPTY = 0.5
"""A bin without any counts as one with half an image, or its logarithm would have no end."""
BIN_SHARE = 0.1
"""Bins of the cosine are joined until each has this share of the reference: PSI grows with the number of its bins."""
DOMAIN_SHARE = 0.01
"""Domains with less than this share of the index are counted together."""


@dataclass(frozen=True)
class Drift:
    """What was asked lately of one pair, beside its index. None stands where there is nothing to compare."""

    pair: str
    """The pair of encoder and index that answered."""
    queries: int
    """Compared queries: the latest, 2000 at most."""
    since: str | None
    """When the oldest of them was answered: UTC, ISO 8601."""
    left_out: int
    """Answered since counting began, but filtered, drawn at random, or without one image that may be shown."""
    psi: float | None
    """Between the cosines of queries to their nearest images and those of the index's own images to theirs."""
    psi_chance: float | None
    """What PSI exceeds once in twenty times where nothing has drifted, for so few queries and images."""
    ks: float | None
    """Largest distance between the two cumulative distributions, 0..1."""
    ks_chance: float | None
    """As `psi_chance`, for KS."""
    domain_psi: float | None
    """Between the domains of the nearest images and those of all images of the index; None with fewer than two."""
    domain_psi_chance: float | None
    """As `psi_chance`, for the domains."""
    median: float | None
    """Of the queries' cosines, to the width of a bin."""
    reference_median: float | None
    """Of the index's own."""
    cosines: ScoreHistogram
    """Queries by the cosine to their nearest image."""
    reference_cosines: ScoreHistogram
    """A sample of the index's own images by the cosine to the nearest of another group, as the bundle holds it."""
    domains: dict[str, int]
    """Queries by the domain of their nearest image; "" for none. Queries that were shown nothing are not in it."""
    reference_domains: dict[str, int]
    """Images of the index by domain."""


def compared(
    pair: str,
    *,
    since: str | None,
    left_out: int,
    cosines: ScoreHistogram,
    reference: ScoreHistogram,
    domains: Mapping[str, int],
    reference_domains: Mapping[str, int],
) -> Drift:
    """The two kinds of counts of a pair held against those of its index; both histograms have the same bins."""
    asked, own = np.array(cosines.counts, dtype=np.int64), np.array(reference.counts, dtype=np.int64)
    queries = int(asked.sum())
    psi = psi_at = ks = ks_at = None
    if queries and own.sum():
        starts = joined_bins(own)
        few, few_own = np.add.reduceat(asked, starts), np.add.reduceat(own, starts)
        psi, psi_at = population_stability(few, few_own), chance_stability(few, few_own)
        ks, ks_at = ks_distance(asked, own), chance_distance(queries, int(own.sum()))
    mix = _by_domain(domains, reference_domains)
    return Drift(
        pair=pair,
        queries=queries,
        since=since,
        left_out=left_out,
        psi=_rounded(psi),
        psi_chance=_rounded(psi_at),
        ks=_rounded(ks),
        ks_chance=_rounded(ks_at),
        domain_psi=_rounded(None if mix is None else population_stability(*mix)),
        domain_psi_chance=_rounded(None if mix is None else chance_stability(*mix)),
        median=median_of(cosines),
        reference_median=median_of(reference),
        cosines=cosines,
        reference_cosines=reference,
        domains=dict(domains),
        reference_domains=dict(reference_domains),
    )


def population_stability(counts: ArrayLike, reference: ArrayLike) -> float:
    """Population stability index: the sum over bins of (p - q) ln(p / q), p and q the shares of the two counts; 0 for
    equal shares, and the same with the two exchanged. A bin without any counts as `EMPTY`. Neither is all zeros."""
    p, q = _shares(counts), _shares(reference)
    return float(((p - q) * np.log(p / q)).sum())


def chance_stability(counts: ArrayLike, reference: ArrayLike) -> float:
    """What `population_stability` exceeds once in twenty times for two samples of one distribution.

    With n and m counted in k bins it is nearly (1 / n + 1 / m) times chi-squared of k - 1 degrees of freedom, whose
    quantile is that of Wilson and Hilferty (1931).
    """
    one, other = np.asarray(counts), np.asarray(reference)
    freedom = int(np.count_nonzero(one + other)) - 1
    if freedom < 1:
        return 0.0
    spread = 2 / (9 * freedom)
    quantile = freedom * (1 - spread + 1.6449 * math.sqrt(spread)) ** 3
    return float((1 / one.sum() + 1 / other.sum()) * quantile)


def ks_distance(counts: ArrayLike, reference: ArrayLike) -> float:
    """Kolmogorov-Smirnov distance of two counts over the same ascending bins: at most that of the values themselves."""
    one, other = (np.cumsum(values) / np.sum(values) for values in (counts, reference))
    return float(np.abs(one - other).max())


def chance_distance(queries: int, images: int) -> float:
    """What `ks_distance` exceeds at most once in twenty times for two samples of one distribution."""
    return math.sqrt(-math.log(0.025) / 2 * (1 / queries + 1 / images))


def joined_bins(reference: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where neighbouring bins are joined: the first of each run, so that all have `BIN_SHARE` of the reference.

    What lies below or above all of the reference stays apart, for a query there is what drift is about.
    """
    held = np.flatnonzero(reference)
    first, last = int(held[0]), int(held[-1])
    upto, done = np.cumsum(reference).tolist(), 0
    least = BIN_SHARE * upto[-1]
    starts = [first]
    for place in range(first, last):
        if upto[place] - done >= least and upto[-1] - upto[place] >= least:
            starts.append(place + 1)
            done = upto[place]
    below = [0] if first > 0 else []
    above = [last + 1] if last + 1 < len(reference) else []
    return np.array([*below, *starts, *above], dtype=np.int64)


def median_of(histogram: ScoreHistogram) -> float | None:
    """The middle of the bin that the median lies in; None without any counts."""
    total = sum(histogram.counts)
    if not total:
        return None
    place = int(np.searchsorted(np.cumsum(histogram.counts), total / 2))
    width = (histogram.high - histogram.low) / len(histogram.counts)
    return round(histogram.low + (place + 0.5) * width, 6)


def empty_like(histogram: ScoreHistogram, counts: Sequence[int] | None = None) -> ScoreHistogram:
    """The same bins with other counts, by default none."""
    held = [0] * len(histogram.counts) if counts is None else list(counts)
    return dataclasses.replace(histogram, counts=held)


def _by_domain(domains: Mapping[str, int], reference: Mapping[str, int]) -> tuple[list[int], list[int]] | None:
    """Counts of queries and images for each domain, the rare ones together; None where there is no mix to compare."""
    total = sum(reference.values())
    kept = sorted(name for name, images in reference.items() if images >= DOMAIN_SHARE * total)
    asked, own = [domains.get(name, 0) for name in kept], [reference[name] for name in kept]
    rest = sum(domains.values()) - sum(asked), total - sum(own)
    if any(rest):
        asked.append(rest[0])
        own.append(rest[1])
    return (asked, own) if len(own) > 1 and any(asked) else None


def _shares(counts: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(counts, dtype=np.float64)
    shares: NDArray[np.float64] = np.maximum(values, EMPTY) / values.sum()
    return shares


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
