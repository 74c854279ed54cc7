"""What is asked of selection and what it answers."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewfold.retrieval.selection.showing import demo_table


@dataclass(frozen=True, eq=False)
class Query:
    """An image that wants demonstrations.

    >>> query = vf.Query("slide-3", np.ones(256), group="patient-7")
    >>> query.id, query.group, query.phash
    ('slide-3', 'patient-7', None)
    """

    id: str
    """Its identity; a pool image with this key is left out."""
    vector: NDArray[np.floating[Any]]
    """`[dim]`, from the encoder of the bundle that will be searched; not normalised."""
    group: str | None = None
    """What must not leak: pool images of this group are left out."""
    sha256: str | None = None
    """Of its file; pool images with the same bytes are left out."""
    phash: str | None = None
    """Perceptual hash of what it shows; pool images that look the same are left out."""
    base_vector: NDArray[np.floating[Any]] | None = None
    """`[base dim]`, from the encoder before adaptation; pool images almost parallel to it there are left out."""


@dataclass(frozen=True)
class DemoItem:
    """One chosen demonstration."""

    key: str
    label: str
    domain: str | None
    score: float
    """Cosine to the query, rounded to 1e-6."""
    rank: int
    """1 for the first choice, wherever it stands in the prompt."""
    reason: str
    p_match: float | None = None
    """Probability that it carries the query's label; None without a calibration."""


@dataclass(frozen=True)
class DemoSet:
    """The demonstrations for one query, in prompt order, with what was left out and what they came from.

    >>> pair = vf.open_pair("runs/mine", "runs")
    >>> query = vf.Query("mine", np.ones(256), group="thing-0")
    >>> (demos,) = vf.select(pair.bundle, [query], vf.SelectConfig(k=5))
    >>> len(demos.items), demos.excluded["group"], demos.encoder_id == pair.encoder.id
    (5, 2, True)
    """

    query_id: str
    items: list[DemoItem]
    excluded: dict[str, int]
    """Pool images left out by each filter that was set and each guard that could be checked; one that several hit
    counts for the first. `phash` and `duplicate` count among the candidates that were looked at, the others in all of
    the pool; `min_p_match` counts choices that were dropped."""
    warnings: list[str]
    strategy: str
    k: int
    """How many were asked for."""
    seed: int
    encoder_id: str
    bundle_id: str
    stats: dict[str, float] = field(default_factory=dict)
    """`fill_rate` (of k), `candidates` looked at, `nearest`, the cosine of the first choice, even of one that was too
    improbable to be shown (not for `random`), and of the items, if there are any, `score_mean`, `score_min`,
    `label_entropy` in nats, `domains` and with a calibration `p_match_mean`."""
    fallback: str | None = None
    """`zero_shot` or `stratified_random` where too few probable demonstrations were found; None otherwise."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a client."""
        return dataclasses.asdict(self)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return demo_table(self)
