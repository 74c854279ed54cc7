"""A multimodal model asked with every selector's demonstrations: how often it is right, and what that costs."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewfold.jobs.icl_config import LOG, MACRO, IclConfig, LmmConfig
from viewfold.jobs.icl_selectors import FoldChoices
from viewfold.keyed import key64
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.progress import progress
from viewfold.retrieval.icl import Answered, AnswerLog, GroupResampling, Interview, Question, ask_all
from viewfold.retrieval.lmm import LMMClient
from viewfold.retrieval.prompt import PromptImage, prompt_image

ZERO_SHOT = "zero-shot"
"""Who chooses no demonstrations: the same prompt for every selector, so it is asked once."""

_KEPT_IMAGES = 2048


@dataclass(frozen=True, eq=False)
class _Table:
    """The queries that are asked, all of whose classes can be shown; every array is in their order, fold by fold."""

    ids: list[str]
    labels: NDArray[np.str_]
    folds: NDArray[np.str_]
    groups: NDArray[np.str_]


def lmm_results(
    config: IclConfig, folds: Mapping[str, FoldChoices], manifest: Path, out: Path, client: LMMClient
) -> dict[str, Any]:
    """Ask `client` all that the log in `out` lacks; then, by selector, order and k, accuracy, failures and tokens.

    Selectors with several seeds are asked with the first one. Answers that cannot be read count as wrong.
    """
    assert config.lmm is not None
    lmm, log = config.lmm, AnswerLog(out / LOG)
    rows = {fold: _asked_rows(one, lmm.queries_per_fold, config.seed) for fold, one in folds.items()}
    table = _table(folds, rows)
    answers: dict[tuple[str, str, int], list[Answered]] = {}
    with ShardImages(ShardManifest.load(manifest), lmm.max_side) as images:
        plan = _plan(config, next(iter(folds.values())))
        interviews = {fold: _interview(lmm, one, images, client) for fold, one in folds.items()}
        with progress("ask", total=len(plan) * len(table.ids)) as bar:
            for selector, order, k in plan:
                for fold, one in folds.items():
                    questions = [_question(one, row, selector, k, order) for row in rows[fold]]
                    for answered in ask_all(questions, interviews[fold], log, concurrency=lmm.concurrency):
                        answers.setdefault((selector, order, k), []).append(answered)
                        bar.advance()
    return _told(config, table, answers)


class ShardImages:
    """Images of a manifest by key, as prompts show them. A context manager; any number of threads may ask."""

    def __init__(self, manifest: ShardManifest, max_side: int) -> None:
        """Images are shrunk to `max_side` pixels."""
        self._manifest, self._max_side = manifest, max_side
        self._rows = {
            manifest.image_key(row, member): (row, member)
            for row in range(len(manifest))
            for member in range(manifest.num_images(row))
        }
        self._reader = manifest.reader()
        self._lock = threading.Lock()
        self._kept = lru_cache(_KEPT_IMAGES)(self._made)

    def __enter__(self) -> "ShardImages":
        self._reader.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._reader.__exit__(*raised)

    def __call__(self, key: str) -> PromptImage:
        """The image `key`."""
        return self._kept(key)

    def _made(self, key: str) -> PromptImage:
        row, member = self._rows[key]
        with self._lock:
            data = self._reader.read(self._manifest.shard(row), self._manifest.samples.images(row)[member])
        return prompt_image(data, max_side=self._max_side)


def _plan(config: IclConfig, fold: FoldChoices) -> list[tuple[str, str, int]]:
    """Selector, order and k of everything that each query is asked; orders differ only from two demonstrations on."""
    assert config.lmm is not None
    orders = config.lmm.orders
    plan: list[tuple[str, str, int]] = [(ZERO_SHOT, orders[0], 0)] if 0 in config.ks else []
    for k in sorted(k for k in config.ks if k > 0):
        plan += [(selector, order, k) for selector in fold.selectors for order in (orders if k > 1 else orders[:1])]
    return plan


def _asked_rows(fold: FoldChoices, number: int, seed: int) -> list[int]:
    """Which queries are asked of those whose class can be shown: the first `number` by key, or all."""
    answerable: list[int] = np.flatnonzero(fold.asked.chance > 0).tolist()
    drawn = sorted(answerable, key=lambda row: key64("asked", seed, fold.asked.ids[row]))
    return sorted(drawn[:number] if number else drawn)


def _table(folds: Mapping[str, FoldChoices], rows: Mapping[str, Sequence[int]]) -> _Table:
    every = [(fold, one.asked, row) for fold, one in folds.items() for row in rows[fold]]
    return _Table(
        ids=[asked.ids[row] for _, asked, row in every],
        labels=np.array([asked.labels[row] for _, asked, row in every]),
        folds=np.array([fold for fold, _, _ in every]),
        groups=np.array([asked.groups[row] for _, asked, row in every]),
    )


def _interview(lmm: LmmConfig, fold: FoldChoices, images: ShardImages, client: LMMClient) -> Interview:
    server, classes = lmm.server, fold.pool.label.names
    return Interview(
        client=client,
        model=server.model or server.url,
        server=server.url,
        # A class of the whole evaluation that has words may be none of this fold's.
        spec=replace(lmm.prompt, labels={k: words for k, words in lmm.prompt.labels.items() if k in classes}),
        classes=classes,
        image=images,
        max_tokens=server.max_tokens,
        seed=server.seed,
        timeout_s=server.timeout_s,
    )


def _question(fold: FoldChoices, row: int, selector: str, k: int, order: str) -> Question:
    shown: list[tuple[str, str]] = []
    if k:
        chosen = next(iter(fold.selectors[selector].values())).choices.first(k).rows[row]
        labels = fold.pool.label
        shown = [(fold.keys[pool_row], labels.names[labels.codes[pool_row]]) for pool_row in chosen if pool_row >= 0]
    return Question(
        query_id=fold.asked.ids[row],
        selector=selector,
        k=k,
        order=order,
        shown=tuple(shown if order == "nearest_first" else shown[::-1]),
    )


def _told(
    config: IclConfig, table: _Table, answers: Mapping[tuple[str, str, int], Sequence[Answered]]
) -> dict[str, Any]:
    every = np.ones(len(table.ids), dtype=np.bool_)
    views = {MACRO: every, **{fold: table.folds == fold for fold in dict.fromkeys(table.folds.tolist())}}
    draws = {
        view: GroupResampling(
            table.groups[mask].tolist(),
            table.folds[mask].tolist(),
            seed=config.seed,
            num_resamples=config.resamples,
            num_flips=config.resamples,
        )
        for view, mask in views.items()
    }
    right = {
        asked: np.array([answered.label for answered in found], dtype=object) == table.labels
        for asked, found in answers.items()
    }
    rows = [
        {
            "selector": selector,
            "order": order,
            "k": k,
            **{view: _row(found, right[selector, order, k], table, views[view], draws[view]) for view in draws},
        }
        for (selector, order, k), found in answers.items()
    ]
    differences = [
        {"selector": b[0], "against": a[0], "order": b[1], "k": b[2], **_difference(right[b], right[a], views, draws)}
        for a, b in combinations(answers, 2)
        if a[1:] == b[1:]
    ]
    assert config.lmm is not None
    server = config.lmm.server
    return {
        "model": server.model or server.url,
        "queries": len(table.ids),
        "rows": rows,
        "differences": differences,
    }


def _row(
    found: Sequence[Answered], right: NDArray[np.bool_], table: _Table, mask: NDArray[np.bool_], draws: GroupResampling
) -> dict[str, Any]:
    own = [found[row] for row in np.flatnonzero(mask).tolist()]
    values = right[mask].astype(np.float64)
    return {
        "accuracy": asdict(draws.interval(values)),
        "balanced_accuracy": asdict(draws.interval(values, table.labels[mask].tolist())),
        "parse_fail_rate": _share([answered.how == "failed" for answered in own]),
        "prompt_tokens": _share([a.prompt_tokens for a in own]),
        "completion_tokens": _share([a.completion_tokens for a in own]),
        "latency_s": _share([a.latency_s for a in own]),
    }


def _difference(
    after: NDArray[np.bool_],
    before: NDArray[np.bool_],
    views: Mapping[str, NDArray[np.bool_]],
    draws: Mapping[str, GroupResampling],
) -> dict[str, Any]:
    difference = after.astype(np.float64) - before
    return {
        view: {**asdict(own.interval(difference[views[view]])), "p": own.p_value(difference[views[view]])}
        for view, own in draws.items()
    }


def _share(values: Sequence[float | None]) -> float | None:
    """Their mean; None where one is not known."""
    return None if any(v is None for v in values) else float(np.mean(np.array(values, dtype=float)))
