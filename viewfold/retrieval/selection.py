"""Choosing labelled demonstrations for a query image: at random, or the nearest by cosine, behind leakage guards.

Nearest selection with a pretrained encoder is TopKNearestPR; the same rule on an index of an encoder adapted with
class-conditioned contrastive invariance is InvariantSelectPR (arXiv:2405.12217). Nothing but the encoder differs.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from viewfold.config import Config
from viewfold.errors import InvalidInput
from viewfold.keyed import generator
from viewfold.retrieval.bundle import IndexBundle


@dataclass(frozen=True, kw_only=True)
class SelectConfig(Config):
    """How demonstrations are chosen."""

    strategy: Literal["random", "nearest", "invariant"] = "invariant"
    """`nearest` and `invariant` are one rule; which of the two names is true depends on the bundle's encoder."""
    k: int = 7
    """Demonstrations for each query; 0 asks for none (zero-shot)."""
    order: Literal["nearest_last", "nearest_first"] = "nearest_last"
    """Order in the prompt; models lean on what they read last. For `random`, rank is the order of the draw."""
    exclude_group: bool = True
    """Leave out images of the query's own patient, slide, object."""
    seed: int = 0
    """For `random`: a query's draw depends on this and on its id alone."""

    def __post_init__(self) -> None:
        if self.k < 0:
            raise ValueError(f"k must be 0 or more, got {self.k}")


@dataclass(frozen=True, eq=False)
class Query:
    """An image that wants demonstrations."""

    id: str
    """Its identity; a pool image with this key is left out."""
    vector: NDArray[np.floating[Any]]
    """`[dim]`, from the encoder of the bundle that will be searched; not normalised."""
    group: str | None = None
    """What must not leak: pool images of this group are left out."""
    sha256: str | None = None
    """Of its file; pool images with the same bytes are left out."""


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


@dataclass(frozen=True)
class DemoSet:
    """The demonstrations for one query, in prompt order, with what was left out and what they came from."""

    query_id: str
    items: list[DemoItem]
    excluded: dict[str, int]
    """Pool images left out by each guard; one that several guards hit counts for the first: key, sha256, group."""
    warnings: list[str]
    strategy: str
    k: int
    """How many were asked for."""
    seed: int
    encoder_id: str
    bundle_id: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a client."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, eq=False)
class Guarded:
    """Rows of the pool that one query must not be shown."""

    rows: NDArray[np.int64]
    counts: dict[str, int]


def select(bundle: IndexBundle, queries: Sequence[Query], config: SelectConfig) -> list[DemoSet]:
    """Demonstrations for each query, in the order of the queries; a query's answer does not depend on the others.

    Raises:
        InvalidInput: an image of the bundle has no label, or a query's vector has no direction.
        ArtifactMismatch: the queries' vectors have another length than the bundle's.
    """
    if not queries:
        return []
    labels = bundle.records.column("label")
    if labels.null_count:
        raise InvalidInput(
            f"{bundle.folder}: {labels.null_count} of {len(bundle)} images have no label and cannot be shown as "
            "demonstrations; build the index from labelled images alone"
        )
    guarded = guarded_rows(bundle, queries, exclude_group=config.exclude_group)
    if config.k == 0:
        chosen = [(np.empty(0, dtype=np.int64), np.empty(0)) for _ in queries]
    elif config.strategy == "random":
        chosen = [_drawn(bundle, query, guard, config) for query, guard in zip(queries, guarded, strict=True)]
    else:
        chosen = _nearest(bundle, queries, guarded, config.k)
    return [
        _demo_set(bundle, query, guard, rows, scores, config=config)
        for query, guard, (rows, scores) in zip(queries, guarded, chosen, strict=True)
    ]


def guarded_rows(bundle: IndexBundle, queries: Sequence[Query], *, exclude_group: bool) -> list[Guarded]:
    """For each query the rows that would leak its answer: the image itself, the same bytes, the same group."""
    found = {
        "key": bundle.by_key.rows([query.id for query in queries]),
        "sha256": bundle.by_sha256.rows([query.sha256 for query in queries]),
        "group": bundle.by_group.rows([query.group if exclude_group else None for query in queries]),
    }
    return [_merged({reason: rows[number] for reason, rows in found.items()}) for number in range(len(queries))]


def _merged(found: dict[str, NDArray[np.int64]]) -> Guarded:
    merged, counts = np.empty(0, dtype=np.int64), {}
    for reason, rows in found.items():
        union = np.union1d(merged, rows)
        counts[reason] = len(union) - len(merged)
        merged = union
    return Guarded(merged, counts)


def _nearest(
    bundle: IndexBundle, queries: Sequence[Query], guarded: Sequence[Guarded], k: int
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    hits = bundle.search(np.stack([query.vector for query in queries]), k, excluded=[guard.rows for guard in guarded])
    found = hits.rows >= 0
    return [(rows[keep], scores[keep]) for rows, scores, keep in zip(hits.rows, hits.scores, found, strict=True)]


def _drawn(
    bundle: IndexBundle, query: Query, guard: Guarded, config: SelectConfig
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """`k` rows, uniform without replacement: the first allowed ones of a longer draw."""
    draw = generator("random demonstrations", config.seed, query.id)
    rows = draw.choice(len(bundle), min(len(bundle), config.k + len(guard.rows)), replace=False)
    rows = rows[~np.isin(rows, guard.rows)][: config.k]
    return rows, bundle.index.similarity(query.vector[None], rows[None])[0]


def _demo_set(
    bundle: IndexBundle,
    query: Query,
    guard: Guarded,
    rows: NDArray[np.int64],
    scores: NDArray[np.float64],
    *,
    config: SelectConfig,
) -> DemoSet:
    table = bundle.records.select(["key", "label", "domain"]).take(rows).to_pylist()
    why = f"drawn with seed {config.seed}" if config.strategy == "random" else "by cosine"
    items = [
        DemoItem(**record, score=float(score), rank=rank, reason=f"choice {rank} of {len(rows)} {why}")
        for rank, (record, score) in enumerate(zip(table, scores, strict=True), start=1)
    ]
    eligible = len(bundle) - len(guard.rows)
    short = f"asked for {config.k} demonstrations, got {len(items)}: {eligible} of {len(bundle)} images are eligible"
    return DemoSet(
        query_id=query.id,
        items=items[::-1] if config.order == "nearest_last" else items,
        excluded=guard.counts,
        warnings=[short] if len(items) < config.k else [],
        strategy=config.strategy,
        k=config.k,
        seed=config.seed,
        encoder_id=bundle.info.encoder_id,
        bundle_id=bundle.info.id,
    )
