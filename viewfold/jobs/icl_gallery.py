"""Hits and misses of an in-context evaluation, with their pictures: drawn by key, never by how they look."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewfold.jobs.icl_config import IclConfig
from viewfold.jobs.icl_lmm import ShardImages
from viewfold.jobs.icl_selectors import NEAREST, FoldChoices, invariant
from viewfold.keyed import key64
from viewfold.pipeline.manifest import ShardManifest
from viewfold.retrieval.icl import demo_measures

THUMBNAIL_PX = 64


def gallery(
    config: IclConfig, folds: Mapping[str, FoldChoices], manifest: Path, *, k: int
) -> dict[str, list[dict[str, Any]]]:
    """Of each fold, queries by which selectors' votes were right, with their `k` demonstrations, first choice first.

    Shown are nearest selection and the first adaptation. Every kind of outcome gets the same number of places, and
    says how many queries it has.
    """
    if not config.gallery:
        return {}
    shown = [NEAREST, *(invariant(name) for name in list(config.adaptations)[:1])]
    with ShardImages(ShardManifest.load(manifest), THUMBNAIL_PX) as images:
        return {fold: _of_fold(config, one, images, shown, k) for fold, one in folds.items()}


def _of_fold(
    config: IclConfig, one: FoldChoices, images: ShardImages, shown: Sequence[str], k: int
) -> list[dict[str, Any]]:
    first = {name: next(iter(one.selectors[name].values())).choices.first(k) for name in shown}
    votes = {
        name: demo_measures(choices, one.pool, one.asked.labels, vote_tau=config.vote_tau)["vote"] > 0
        for name, choices in first.items()
    }
    kinds = np.stack([votes[name] for name in shown], 1)
    places = max(1, config.gallery // 2 ** len(shown))
    told = []
    for kind in sorted({tuple(row) for row in kinds.tolist()}, reverse=True):
        rows = np.flatnonzero((kinds == kind).all(1))
        drawn = sorted(rows.tolist(), key=lambda row: key64("gallery", config.seed, one.asked.ids[row]))
        told.append(
            {
                "right": dict(zip(shown, kind, strict=True)),
                "queries": len(rows),
                "of": len(one.asked.ids),
                "shown": [
                    {
                        "label": one.asked.labels[row],
                        "picture": images(one.asked.ids[row]).data_uri(),
                        "selectors": {
                            name: _tiles(one, images, choices.rows[row], choices.scores[row], one.asked.labels[row])
                            for name, choices in first.items()
                        },
                    }
                    for row in drawn[:places]
                ],
            }
        )
    return told


def _tiles(
    one: FoldChoices, images: ShardImages, rows: NDArray[np.int64], scores: NDArray[np.float64], truth: str
) -> list[dict[str, Any]]:
    labels = one.pool.label
    return [
        {
            "label": (label := labels.names[labels.codes[row]]),
            "score": float(score),
            "hit": label == truth,
            "picture": images(one.keys[row]).data_uri(),
        }
        for row, score in zip(rows, scores, strict=True)
        if row >= 0
    ]
