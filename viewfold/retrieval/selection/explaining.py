"""Why each candidate of a query was chosen or not: the steps of selection, held against one another."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from viewfold.retrieval.index.bundle import IndexBundle
from viewfold.retrieval.selection.abstention import AbstainConfig, resolved
from viewfold.retrieval.selection.calibration import Calibration
from viewfold.retrieval.selection.columns import PoolColumns, pool_columns
from viewfold.retrieval.selection.demos import DemoItem, DemoSet, Query
from viewfold.retrieval.selection.diversity import DiversityConfig
from viewfold.retrieval.selection.filters import FilterConfig, eligible_rows
from viewfold.retrieval.selection.guards import GUARDS, guards_of
from viewfold.retrieval.selection.pipeline import select
from viewfold.retrieval.selection.quota import QuotaConfig
from viewfold.retrieval.selection.select_config import SelectConfig

Explained = tuple[str, str, str]
"""Key, stage, reason. The stages: filter, the name of a guard, rank, quota, diversity, abstain, chosen."""

_REASONS = {
    "key": "it is the query itself",
    "sha256": "its file has the same bytes as the query's",
    "group": "it is of the query's own group",
    "phash": "it looks the same: perceptual hashes at most {distance} bits apart",
    "duplicate": "it is a copy of the query: cosine of {cosine} or more in the {space} space",
}


def explain(
    bundle: IndexBundle,
    query: Query,
    config: SelectConfig,
    *,
    label: str | None = None,
    calibration: Calibration | Literal["folder"] | None = "folder",
) -> list[Explained]:
    """For the nearest of the pool, best first and filtered ones among them, then for whatever else was chosen: how far
    each came in selection and why not further. `label` is the query's own, for the strategy `oracle`; `calibration` is
    as for `select`.

    Raises what `select` raises.
    """
    labels = None if label is None else [label]
    stages = _stages(bundle, query, config, labels, resolved(bundle, config.abstain, calibration))
    final = stages[-1][1]
    chosen = {item.key: item.reason for item in final.items}
    pool = pool_columns(bundle)
    found = bundle.index.candidates(query.vector[None], max(10 * config.k, 64), allowed=pool.allowed)
    rows = found.rows[0][found.rows[0] >= 0]
    rows = np.concatenate([rows, _rows_of(bundle, [k for _, demos in stages for k in _keys(demos)], rows)])
    verdicts = _screened(bundle, pool, query, config, rows)
    return [
        (key, *(("chosen", chosen[key]) if key in chosen else verdict or _passed_over(key, stages)))
        for key, verdict in zip(pool.keys.take(rows).to_pylist(), verdicts, strict=True)
    ]


def _stages(
    bundle: IndexBundle,
    query: Query,
    config: SelectConfig,
    labels: Sequence[str] | None,
    calibration: Calibration | None,
) -> list[tuple[str, DemoSet]]:
    """What would be chosen with each step added to those before it; the name is that of the step added."""
    plain = AbstainConfig()
    steps = {
        "rank": dataclasses.replace(config, quota=QuotaConfig(), diversity=DiversityConfig(), abstain=plain),
        "quota": dataclasses.replace(config, diversity=DiversityConfig(), abstain=plain),
        "diversity": dataclasses.replace(config, abstain=plain),
        "abstain": config,
    }
    found = {
        name: select(bundle, [query], step, labels=labels, calibration=calibration) for name, step in steps.items()
    }
    return [(name, demos) for name, (demos,) in found.items()]


def _keys(demos: DemoSet) -> list[str]:
    return [item.key for item in _by_rank(demos)]


def _by_rank(demos: DemoSet) -> list[DemoItem]:
    return sorted(demos.items, key=lambda item: item.rank)


def _rows_of(bundle: IndexBundle, keys: Sequence[str], known: np.ndarray) -> np.ndarray:
    """Rows of the keys that are not among the known ones, each once, in order."""
    allowed = bundle.allowed()
    found = [row for rows in bundle.by_key.rows(list(dict.fromkeys(keys))) for row in rows.tolist()]
    seen = set(known.tolist())
    return np.array([r for r in found if r not in seen and (allowed is None or allowed[r])], dtype=np.int64)


def _screened(
    bundle: IndexBundle, pool: PoolColumns, query: Query, config: SelectConfig, rows: np.ndarray
) -> list[tuple[str, str] | None]:
    """Stage and reason for rows that a filter or a guard stopped; None for the others."""
    guards = guards_of(bundle, pool, [query], config.guards, exclude_group=config.exclude_group)
    scores = bundle.index.similarity(query.vector[None], rows[None])
    hits = guards.screen(np.array([0]), rows[None], scores)[0]
    words = {
        "distance": config.guards.phash_distance,
        "cosine": config.guards.duplicate_cosine,
        "space": config.guards.duplicate_space,
    }
    of_guard = [None if hit <= 0 else (GUARDS[hit - 1], _REASONS[GUARDS[hit - 1]].format(**words)) for hit in hits]
    for name, one in _filters(config.filters).items():
        mask = eligible_rows(pool, one).mask
        for place, row in enumerate(rows.tolist()):
            if mask is not None and not mask[row]:
                of_guard[place] = ("filter", f"the filter by {name} does not let it pass")
    return of_guard


def _filters(config: FilterConfig) -> dict[str, FilterConfig]:
    """Each filter in use, alone; the first in order last, since it is the one that counts."""
    return {
        **{name: FilterConfig(attrs={name: values}) for name, values in reversed(list(config.attrs.items()))},
        **({} if config.labels is None else {"label": FilterConfig(labels=config.labels)}),
        **(
            {"domain": FilterConfig(domains=config.domains, not_domains=config.not_domains)}
            if config.domains is not None or config.not_domains
            else {}
        ),
    }


def _passed_over(key: str, stages: Sequence[tuple[str, DemoSet]]) -> tuple[str, str]:
    """The step that kept it out: the one after the last that would have shown it."""
    reasons = {
        "quota": "the quota gave its place to another",
        "diversity": "too like a choice before it",
        "abstain": "its probability of a match is too low, or too few others were probable",
    }
    shown = [key in _keys(demos) for _, demos in stages]
    if not any(shown):
        return "rank", f"{len(stages[0][1].items)} others come before it"
    last = max(place for place, yes in enumerate(shown) if yes)
    name = stages[last + 1][0]
    return name, reasons[name]
