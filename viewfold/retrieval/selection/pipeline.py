"""Choosing labelled demonstrations for a query image, in a fixed order of steps.

Candidates, hard filters, leakage guards, quota, diversity, abstention, order in the prompt. Nearest selection with a
pretrained encoder is TopKNearestPR; the same rule on an index of an encoder adapted with class-conditioned contrastive
invariance is InvariantSelectPR (arXiv:2405.12217). Nothing but the encoder differs.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from viewfold.errors import ArtifactMismatch
from viewfold.retrieval.index.bundle import IndexBundle
from viewfold.retrieval.index.vector_index import unit_rows
from viewfold.retrieval.selection.abstention import AbstainConfig, resolved
from viewfold.retrieval.selection.calibration import Calibration
from viewfold.retrieval.selection.columns import pool_columns
from viewfold.retrieval.selection.demos import DemoItem, DemoSet, Query
from viewfold.retrieval.selection.diversity import DiversityConfig
from viewfold.retrieval.selection.filters import eligible_rows
from viewfold.retrieval.selection.guards import Guarded, guarded_rows, guards_of
from viewfold.retrieval.selection.picking import Picks, picked
from viewfold.retrieval.selection.quota import QuotaConfig
from viewfold.retrieval.selection.select_config import SelectConfig
from viewfold.retrieval.selection.strategies import Request, check_labels
from viewfold.retrieval.selection.wording import demo_sets

__all__ = ["DemoItem", "DemoSet", "Guarded", "Query", "SelectConfig", "guarded_rows", "select"]


def select(
    bundle: IndexBundle,
    queries: Sequence[Query],
    config: SelectConfig,
    *,
    labels: Sequence[str] | None = None,
    calibration: Calibration | Literal["folder"] | None = "folder",
) -> list[DemoSet]:
    """Demonstrations for each query, in the order of the queries; a query's answer does not depend on the others.

    One search serves all queries, and what follows works on `[query, candidate]` arrays. `labels` are the true labels
    of the queries, for the strategy `oracle` and no other. `calibration` is used where `config.abstain` has none: by
    default the one in the bundle's folder, read again when it is another; give the one to keep to, or None for none.

    >>> pair = vf.open_pair("runs/mine", "runs")
    >>> asked = vf.queries(vf.embed(pair.encoder, ["PHOTO.png"]))
    >>> (demos,) = vf.select(pair.bundle, asked, vf.SelectConfig(k=3))
    >>> demos.query_id, sorted(item.rank for item in demos.items)
    ('PHOTO.png', [1, 2, 3])

    Raises:
        InvalidInput: an image of the bundle has no label, a query's vector has no direction, a perceptual hash is
            none, a filter names what is not there, `min_p_match` has no calibration, or `labels` are missing or out of
            place.
        ArtifactMismatch: the queries' vectors have another length than the bundle's, or the calibration is of another
            encoder.
    """
    check_labels(config, queries, labels)
    if not queries:
        return []
    pool = pool_columns(bundle)
    curve = resolved(bundle, config.abstain, calibration)
    vectors = _vectors(bundle, queries)
    request = Request(bundle, pool, eligible_rows(pool, config.filters), queries, vectors, config, labels)
    guards = guards_of(bundle, pool, queries, config.guards, exclude_group=config.exclude_group)
    picks = picked(request, guards)
    found = demo_sets(request, guards, picks, curve)
    return _with_fallback(request, picks, found, curve) if config.abstain.min_p_match > 0 else found


def _vectors(bundle: IndexBundle, queries: Sequence[Query]) -> NDArray[np.floating]:
    """`[query, dim]`, refused where a search would refuse them, but by the query's id."""
    for query in queries:
        if len(query.vector) != bundle.index.dim:
            raise ArtifactMismatch(
                f"query {query.id}: its vector has {len(query.vector)} numbers and the index holds vectors of "
                f"{bundle.index.dim}; embed it with the encoder that the index was built with"
            )
    vectors = np.stack([query.vector for query in queries])
    unit_rows(vectors.astype(np.float64), [f"query {query.id}" for query in queries])
    return vectors


def _with_fallback(
    request: Request, picks: Picks, found: list[DemoSet], calibration: Calibration | None
) -> list[DemoSet]:
    """Replace the sets that have too few probable demonstrations left."""
    abstain = request.config.abstain
    few = [number for number, demos in enumerate(found) if len(demos.items) < min(abstain.k_min, request.config.k)]
    drawn = abstain.fallback == "stratified_random"
    shown = _drawn(request, few, calibration) if drawn else [_emptied(found[number]) for number in few]
    for number, instead in zip(few, shown, strict=True):
        demos = found[number]
        why = f"only {len(demos.items)} of {request.config.k} reach p_match {abstain.min_p_match}, k_min is "
        why += f"{abstain.k_min}: {abstain.fallback}"
        found[number] = dataclasses.replace(
            demos,
            items=instead.items,
            stats=instead.stats | {name: value for name, value in demos.stats.items() if name == "nearest"},
            warnings=[*instead.warnings, why],
            fallback=abstain.fallback,
        )
    return found


def _emptied(demos: DemoSet) -> DemoSet:
    return dataclasses.replace(demos, items=[], stats={"fill_rate": 0.0, "candidates": demos.stats["candidates"]})


def _drawn(request: Request, numbers: Sequence[int], calibration: Calibration | None) -> list[DemoSet]:
    """Sets drawn at random behind the same filters and guards, with as many of each class that the filters leave as
    there is room for."""
    config = request.config
    seats = max(1, config.k // max(1, int(np.count_nonzero(request.label_counts))))
    plain = dataclasses.replace(
        config,
        strategy="random",
        quota=QuotaConfig(rule="min_per_class", per_class=seats),
        diversity=DiversityConfig(),
        abstain=AbstainConfig(),
    )
    return select(request.bundle, [request.queries[number] for number in numbers], plain, calibration=calibration)
