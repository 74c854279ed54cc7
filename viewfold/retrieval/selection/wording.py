"""Choices as demonstration sets: items with their records and reasons, what was left out, warnings and figures."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from viewfold.retrieval.selection.calibration import Calibration
from viewfold.retrieval.selection.demos import DemoItem, DemoSet
from viewfold.retrieval.selection.guards import GUARDS, Guards
from viewfold.retrieval.selection.ordering import ordered
from viewfold.retrieval.selection.picking import Picks
from viewfold.retrieval.selection.select_config import SelectConfig
from viewfold.retrieval.selection.strategies import Request


def demo_sets(request: Request, guards: Guards, picks: Picks, calibration: Calibration | None) -> list[DemoSet]:
    """One set for each query; choices below `min_p_match` are dropped and counted here."""
    counts = guards.counts(request.eligible.mask)
    counts = np.concatenate([counts, picks.hits[:, counts.shape[1] :]], axis=1)
    items, dropped = _items(request, picks, calibration)
    return [
        _demo_set(request, picks, number, kept, excluded=_excluded(request, guards, number, counts[number], lost))
        for number, (kept, lost) in enumerate(zip(items, dropped, strict=True))
    ]


def _items(request: Request, picks: Picks, calibration: Calibration | None) -> tuple[list[list[DemoItem]], list[int]]:
    """The items of each query by rank, and how many were too improbable."""
    chosen = picks.rows >= 0
    probable = None if calibration is None else calibration.probability(picks.scores)
    keep = chosen if probable is None else chosen & (probable >= request.config.abstain.min_p_match)
    rows, scores = picks.rows[keep], picks.scores[keep].tolist()
    keys = request.pool.keys.take(rows).to_pylist()
    labels, domains = request.pool.label, request.pool.domain
    label, domain = labels.codes[rows].tolist(), domains.codes[rows].tolist()
    p_match = [None] * len(rows) if probable is None else probable[keep].round(6).tolist()
    ends = np.cumsum(np.count_nonzero(keep, axis=1)).tolist() if len(keep) else []
    why, first, items = _why(request.config), 0, []
    for end in ends:
        items.append(
            [
                DemoItem(
                    keys[i],
                    labels.names[label[i]],
                    domains.names[domain[i]] if domain[i] >= 0 else None,
                    scores[i],
                    i - first + 1,
                    f"choice {i - first + 1} of {end - first} {why}",
                    p_match[i],
                )
                for i in range(first, end)
            ]
        )
        first = end
    return items, (np.count_nonzero(chosen, axis=1) - np.count_nonzero(keep, axis=1)).tolist()


def _why(config: SelectConfig) -> str:
    if config.strategy == "random":
        why = f"drawn with seed {config.seed}"
    else:
        why = "by cosine within its own class" if config.strategy == "oracle" else "by cosine"
    why += f" and difference (lam {config.diversity.lam})" if config.diversity.lam < 1 else ""
    return why + (f" under {config.quota.rule}" if config.quota.rule != "none" else "")


def _excluded(request: Request, guards: Guards, number: int, counts: NDArray[np.int64], dropped: int) -> dict[str, int]:
    of_guard = dict(zip(GUARDS, counts.tolist(), strict=True))
    by_guard = {name: of_guard[name] for name in guards.asked(number)}
    abstained = {"min_p_match": dropped} if request.config.abstain.min_p_match > 0 else {}
    return {**request.eligible.excluded, **by_guard, **abstained}


def _demo_set(
    request: Request, picks: Picks, number: int, items: list[DemoItem], *, excluded: dict[str, int]
) -> DemoSet:
    config, query, info = request.config, request.queries[number], request.bundle.info
    return DemoSet(
        query_id=query.id,
        items=ordered(items, config.order, seed=config.seed, query_id=query.id),
        excluded=excluded,
        warnings=_warnings(request, picks, number, len(items), excluded),
        strategy=config.strategy,
        k=config.k,
        seed=config.seed,
        encoder_id=info.encoder_id,
        bundle_id=info.id,
        stats=_stats(items, config.k, int(picks.looked_at[number])) | _nearest(config, picks, number),
    )


def _warnings(request: Request, picks: Picks, number: int, found: int, excluded: dict[str, int]) -> list[str]:
    warnings = list(request.eligible.warnings)
    config, quota = request.config, request.config.quota
    dropped = excluded.get("min_p_match", 0)
    if picks.unmet[number]:
        warnings.append(_unmet(request, picks.rows[number]))
    if found + dropped < config.k and not (picks.unmet[number] and quota.rule == "max_per_class"):
        eligible = request.eligible.total - sum(excluded.get(name, 0) for name in GUARDS)
        total = len(request.bundle)
        warnings.append(
            f"asked for {config.k} demonstrations, got {found + dropped}: {eligible} of {total} images are eligible"
        )
    return warnings


def _unmet(request: Request, rows: NDArray[np.int64]) -> str:
    quota, k, pool = request.config.quota, request.config.k, request.pool
    if quota.rule == "max_per_class":
        found = int(np.count_nonzero(rows >= 0))
        return f"quota max_per_class={quota.per_class} leaves {found} of {k} demonstrations"
    chosen = np.bincount(pool.label.codes[rows[rows >= 0]], minlength=len(pool.label.names))
    short = np.flatnonzero(chosen < np.minimum(request.label_counts, quota.per_class))
    named = ", ".join(repr(pool.label.names[code]) for code in short[:5].tolist()) + (", ..." if len(short) > 5 else "")
    return f"quota min_per_class={quota.per_class} is not met with k={k} by {len(short)} classes: {named}"


def _nearest(config: SelectConfig, picks: Picks, number: int) -> dict[str, float]:
    """How near the first choice is, whatever becomes of it."""
    if config.strategy == "random" or config.k == 0 or picks.rows[number, 0] < 0:
        return {}
    return {"nearest": float(picks.scores[number, 0])}


def _stats(items: Sequence[DemoItem], k: int, looked_at: int) -> dict[str, float]:
    stats = {"fill_rate": len(items) / k if k else 1.0, "candidates": float(looked_at)}
    if not items:
        return stats
    scores = [item.score for item in items]
    shares = np.array(list(Counter(item.label for item in items).values())) / len(items)
    stats |= {
        "score_mean": sum(scores) / len(scores),
        "score_min": min(scores),
        "label_entropy": abs(float(-(shares * np.log(shares)).sum())),
        "domains": float(len({item.domain for item in items})),
    }
    probable = [item.p_match for item in items if item.p_match is not None]
    return stats | ({"p_match_mean": sum(probable) / len(probable)} if probable else {})
