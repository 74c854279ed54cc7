"""From what was chosen to numbers: every measure by selector, k and fold, with intervals, and selectors in pairs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewfold.errors import InvalidInput
from viewfold.jobs.icl_config import MACRO, IclConfig
from viewfold.jobs.icl_selectors import RANDOM, Chosen, FoldChoices
from viewfold.retrieval.icl import Choices, GroupResampling, auroc, demo_measures, expected_calibration_error

COMPARED = ("precision", "vote")
"""Measures in which every two selectors are compared, query by query."""
BY_CLASS = {"precision": "class_precision", "vote": "balanced_vote"}
"""Measures that are also told as a mean over classes, and what that is called."""

Values = Mapping[str, NDArray[np.float64]]
"""Measures of one selector and k as `[query]`."""


class Outcomes:
    """The measures of the queries whose class can be shown to them; the other queries are counted apart.

    The queries of all folds stand behind one another. A selector with several seeds has, for each query, the mean over
    its seeds.
    """

    def __init__(self, config: IclConfig, folds: Mapping[str, FoldChoices]) -> None:
        """Measures every selector of every fold at every k.

        Raises:
            InvalidInput: a fold in which no query can be shown its class.
        """
        self.config, self.folds = config, folds
        self._answerable = {fold: one.asked.chance > 0 for fold, one in folds.items()}
        for fold, answerable in self._answerable.items():
            if not answerable.any():
                raise InvalidInput(f"fold {fold}: no query finds an image of its class in the other domains")
        self.labels = self._joined({fold: np.array(one.asked.labels) for fold, one in folds.items()})
        self.groups = self._joined({fold: np.array(one.asked.groups) for fold, one in folds.items()})
        self.fold = self._joined({fold: np.full(len(one.asked.ids), fold) for fold, one in folds.items()})
        self.ks = [k for k in sorted(config.ks) if k > 0]
        self.selectors = list(next(iter(folds.values())).selectors)
        self.by_seed = {(name, k): self._measured(name, k) for name in self.selectors for k in self.ks}

    def values(self, selector: str, k: int) -> Values:
        """The measures of a selector, mean over its seeds."""
        seeds = self.by_seed[selector, k]
        return {name: np.mean([seed[name] for seed in seeds], axis=0) for name in seeds[0]}

    @cached_property
    def views(self) -> dict[str, tuple[NDArray[np.bool_], GroupResampling]]:
        """Of the mean over folds and of each fold: which queries, and the draws of their groups."""
        config = self.config
        masks = {MACRO: np.ones(len(self.fold), dtype=bool), **{fold: self.fold == fold for fold in self.folds}}
        return {
            name: (mask, GroupResampling(
                self.groups[mask].tolist(),
                self.fold[mask].tolist(),
                seed=config.seed,
                num_resamples=config.resamples,
                num_flips=config.resamples,
            ))
            for name, mask in masks.items()
        }  # fmt: skip

    def _measured(self, name: str, k: int) -> list[Values]:
        per_fold = {fold: self._of_fold(one, name, k) for fold, one in self.folds.items()}
        seeds = range(len(next(iter(per_fold.values()))))
        measures = next(iter(per_fold.values()))[0]
        return [
            {m: self._joined({fold: found[seed][m] for fold, found in per_fold.items()}) for m in measures}
            for seed in seeds
        ]

    def _of_fold(self, one: FoldChoices, name: str, k: int) -> list[Values]:
        return [
            {
                **demo_measures(chosen.choices.first(k), one.pool, one.asked.labels, vote_tau=self.config.vote_tau),
                "chance": one.asked.chance,
            }
            for chosen in one.selectors[name].values()
        ]

    def _joined(self, per_fold: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate([values[self._answerable[fold]] for fold, values in per_fold.items()])


def icl_results(outcomes: Outcomes) -> dict[str, Any]:
    """Plain data: of each selector its measures by k and fold, its space and calibration; then pairs of selectors."""
    config = outcomes.config
    return {
        "name": config.name,
        "ks": outcomes.ks,
        "unseen_share": config.unseen_share,
        "trained_base": config.pretrain is not None,
        "folds": {fold: _asked(one) for fold, one in outcomes.folds.items()},
        "queries": len(outcomes.fold),
        "groups": len(set(outcomes.groups.tolist())),
        "selectors": {name: _selector(outcomes, name) for name in outcomes.selectors},
        "differences": list(_differences(outcomes)),
    }


def _asked(one: FoldChoices) -> dict[str, Any]:
    absent = one.asked.chance == 0
    names = sorted({label for label, gone in zip(one.asked.labels, absent, strict=True) if gone})
    return {
        "queries": int((~absent).sum()),
        "pool": len(one.keys),
        "absent": {"queries": int(absent.sum()), "labels": names},
    }


def _selector(outcomes: Outcomes, name: str) -> dict[str, Any]:
    every: dict[str, Any] = {view: {} for view in outcomes.views}
    for k in outcomes.ks:
        values = outcomes.values(name, k)
        lift = values["precision"] - outcomes.values(RANDOM, k)["precision"]
        for view, (mask, draws) in outcomes.views.items():
            own = {measure: column[mask] for measure, column in {**values, "lift": lift}.items()}
            by_class = {BY_CLASS[m]: draws.interval(own[m], outcomes.labels[mask].tolist()) for m in BY_CLASS}
            intervals = {**{m: draws.interval(column) for m, column in own.items()}, **by_class}
            every[view][str(k)] = {measure: asdict(interval) for measure, interval in intervals.items()}
    return {
        **every,
        "seeds": {str(k): _by_seed(outcomes, name, k) for k in outcomes.ks},
        "space": {fold: _space(one.selectors[name]) for fold, one in outcomes.folds.items()},
        "calibration": _calibration(outcomes, name),
    }


def _by_seed(outcomes: Outcomes, name: str, k: int) -> dict[str, list[float]]:
    """Mean over folds for each seed: how much of a number hangs on the seed."""
    fold = outcomes.fold
    return {
        measure: [
            float(np.mean([seed[measure][fold == one].mean() for one in outcomes.folds]))
            for seed in outcomes.by_seed[name, k]
        ]
        for measure in COMPARED
    }


def _space(by_seed: Mapping[int, Chosen]) -> dict[str, float | None] | None:
    """The mean over seeds of how the encoder's features lie."""
    spaces = [chosen.space for chosen in by_seed.values() if chosen.space is not None]
    if not spaces:
        return None
    leakages = [space.leakage for space in spaces if space.leakage is not None]
    return {
        "domain_gap": _mean([space.gap for space in spaces]),
        "domain_gap_of_sources": _mean([space.gap_of_sources for space in spaces]),
        "neighbour_leakage": _mean([leakage.share for leakage in leakages]),
        "neighbour_leakage_base": _mean([leakage.base for leakage in leakages]),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _differences(outcomes: Outcomes) -> Iterator[dict[str, Any]]:
    """Of every two selectors the later one less the earlier, for the same queries."""
    for first, second in combinations(outcomes.selectors, 2):
        for k in outcomes.ks:
            before, after = outcomes.values(first, k), outcomes.values(second, k)
            for measure in COMPARED:
                difference = after[measure] - before[measure]
                yield {
                    "selector": second,
                    "against": first,
                    "k": k,
                    "measure": measure,
                    **{
                        view: {**asdict(draws.interval(difference[mask])), "p": draws.p_value(difference[mask])}
                        for view, (mask, draws) in outcomes.views.items()
                    },
                }


def _calibration(outcomes: Outcomes, name: str) -> dict[str, dict[str, float | None]]:
    """By k: whether the first choice's cosine tells right votes from wrong ones, and the error of match probabilities.

    Means over folds and seeds, each measured by itself, for cosines of two encoders are not one scale.
    """
    told: dict[str, dict[str, float | None]] = {}
    for k in outcomes.ks:
        areas = [
            auroc(seed["top_score"][outcomes.fold == fold], seed["vote"][outcomes.fold == fold] > 0)
            for seed in outcomes.by_seed[name, k]
            for fold in outcomes.folds
        ]
        errors = [
            _calibration_error(one, chosen.choices.first(k))
            for one in outcomes.folds.values()
            for chosen in one.selectors[name].values()
        ]
        told[str(k)] = {"auroc": _mean([area for area in areas if area is not None]), "ece": _mean(errors)}
    return told


def _calibration_error(one: FoldChoices, choices: Choices) -> float | None:
    """Of the match probabilities of what was chosen, for the queries of one fold whose class can be shown."""
    if choices.p_match is None:
        return None
    there = (choices.rows >= 0) & (one.asked.chance > 0)[:, None]
    return expected_calibration_error(choices.p_match[there], choices.matches(one.pool, one.asked.labels)[there])
