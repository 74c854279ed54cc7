"""From a cosine to the probability that a demonstration carries the query's label, learned from the pool itself."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from viewfold.config import Config, parse
from viewfold.errors import ArtifactMismatch, InvalidInput
from viewfold.keyed import generator
from viewfold.retrieval.index.bundle import IndexBundle
from viewfold.retrieval.index.files import read_json, write_json
from viewfold.retrieval.selection.columns import pool_columns

FORMAT = 1
FILE = "calibration.json"
"""Looked for in the folder of a bundle."""

Kind = Literal["isotonic", "logistic"]

_BATCH = 256
_GRID = 257
_STEPS = 50
_RIDGE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Calibration(Config):
    """A curve from cosine to probability, straight between its knots and flat beyond them."""

    kind: Kind
    encoder_id: str
    """A cosine means something for this encoder alone."""
    scores: tuple[float, ...]
    """Cosines of the knots, ascending."""
    probabilities: tuple[float, ...]
    num_pairs: int
    """Pairs of an image and one of its nearest in another domain that it was fitted on."""
    base_rate: float
    """Share of these pairs that carry one label."""
    format: int = FORMAT

    def __post_init__(self) -> None:
        if not self.scores or len(self.scores) != len(self.probabilities) or list(self.scores) != sorted(self.scores):
            raise ValueError("scores must ascend and be as many as probabilities, at least one")

    def probability(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability of a match at each cosine, of any shape."""
        return np.interp(scores, *self._knots)

    @cached_property
    def _knots(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return np.array(self.scores), np.array(self.probabilities)

    def save(self, path: Path) -> None:
        """Write the curve as JSON, whole or not at all."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path, *, encoder_id: str) -> "Calibration":
        """Read a curve that was fitted for this encoder.

        Raises:
            InvalidInput: there is none, or it is damaged.
            ArtifactMismatch: another format, or another encoder; names both.
        """
        found = parse(cls, read_json(path, kind="calibration", version=FORMAT), where=str(path))
        found.check(encoder_id)
        return found

    def check(self, encoder_id: str) -> None:
        """Refuse with ArtifactMismatch another encoder than that of the fit."""
        if self.encoder_id != encoder_id:
            raise ArtifactMismatch(
                f"a calibration of encoder {self.encoder_id} beside a bundle of encoder {encoder_id}; fit it anew, "
                "since a cosine means something else for each encoder"
            )


def calibration_of(bundle: IndexBundle) -> Calibration | None:
    """The calibration that lies in the bundle's folder, if one does; read again when the file is another."""
    path = bundle.folder / FILE
    if not path.is_file():
        return None
    status = path.stat()
    stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
    known = _OF_BUNDLE.get(bundle)
    if known is None or known[0] != stamp:
        known = _OF_BUNDLE[bundle] = (stamp, Calibration.load(path, encoder_id=bundle.info.encoder_id))
    return known[1]


def fit_calibration(
    bundle: IndexBundle,
    *,
    kind: Kind = "isotonic",
    k: int = 20,
    max_per_domain: int = 2000,
    seed: int = 0,
) -> Calibration:
    """Fit on the pool with one domain left out at a time, as a query of a new domain will meet it.

    Of each domain at most `max_per_domain` images ask for their `k` nearest in the other domains, their own group left
    out; each answer is a pair that matches or not.

    Raises:
        InvalidInput: the pool has images of fewer than two domains, or some without a label, or no image has one of
            another domain and group among its `k` nearest there.
    """
    pairs = list(_pairs(bundle, k=k, max_per_domain=max_per_domain, seed=seed))
    if len(pairs) < 2:
        raise InvalidInput(
            f"{bundle.folder}: has images of one domain or none; a calibration leaves one out at a time and needs two"
        )
    scores, matches = (np.concatenate(part) for part in zip(*pairs, strict=True))
    if not scores.size:
        raise InvalidInput(
            f"{bundle.folder}: no image has one of another group among its {k} nearest in other domains, so there is "
            "nothing to fit on; give a larger k, or an index with more groups"
        )
    knots, probabilities = (_isotonic if kind == "isotonic" else _logistic)(scores, matches)
    return Calibration(
        kind=kind,
        encoder_id=bundle.info.encoder_id,
        scores=tuple(knots.tolist()),
        probabilities=tuple(probabilities.round(9).tolist()),
        num_pairs=len(scores),
        base_rate=float(matches.mean()),
    )


def _pairs(
    bundle: IndexBundle, *, k: int, max_per_domain: int, seed: int
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """For each domain the cosines of its pairs, and 1 where both carry one label."""
    pool, group = pool_columns(bundle), bundle.by_group.row_codes
    alive, labels = bundle.allowed(np.ones(len(bundle), dtype=bool)), pool.label.codes
    assert alive is not None
    exact = bundle.exact()
    for code, name in enumerate(pool.domain.names):
        asking = np.flatnonzero(alive & (pool.domain.codes == code))
        if len(asking) > max_per_domain:
            asking = np.sort(generator("calibration", seed, name).choice(asking, max_per_domain, replace=False))
        others = alive & (pool.domain.codes != code)
        if not asking.size or not others.any():
            continue
        parts = []
        for start in range(0, len(asking), _BATCH):
            rows = asking[start : start + _BATCH]
            found = bundle.index.candidates(exact.take(rows), k, allowed=others)
            held = np.maximum(found.rows, 0)
            use = (found.rows >= 0) & ((group[held] != group[rows, None]) | (group[held] < 0))
            parts.append((found.scores[use], (labels[held] == labels[rows, None])[use].astype(np.float64)))
        yield np.concatenate([one for one, _ in parts]), np.concatenate([one for _, one in parts])


def _isotonic(scores: NDArray[np.float64], matches: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The ascending step curve of least squares, by pooling adjacent violators; a knot at both ends of each step."""
    distinct, place = np.unique(scores, return_inverse=True)
    weights, sums = np.bincount(place).astype(np.float64), np.bincount(place, weights=matches)
    blocks: list[tuple[float, float, int]] = []  # sum, weight, number of distinct scores
    for total, weight in zip(sums.tolist(), weights.tolist(), strict=True):
        block = (total, weight, 1)
        while blocks and blocks[-1][0] * block[1] >= block[0] * blocks[-1][1]:
            last = blocks.pop()
            block = (last[0] + block[0], last[1] + block[1], last[2] + block[2])
        blocks.append(block)
    ends = np.cumsum([number for _, _, number in blocks])
    firsts = np.concatenate([[0], ends[:-1]])
    levels = np.array([total / weight for total, weight, _ in blocks])
    knots = np.stack([distinct[firsts], distinct[ends - 1]], axis=1).ravel()
    keep = np.ones(len(knots), dtype=bool)
    keep[1::2] = knots[1::2] > knots[::2]  # a step of one score has one knot
    return knots[keep], levels.repeat(2)[keep]


def _logistic(scores: NDArray[np.float64], matches: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The logistic curve of largest likelihood, by Newton's steps, at even knots over the scores that were seen."""
    centre, scale = scores.mean(), scores.std() or 1.0
    design = np.stack([np.ones_like(scores), (scores - centre) / scale], axis=1)
    weights = np.zeros(2)
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-design @ weights))
        slope = design.T @ (matches - chance) - _RIDGE * len(scores) * weights  # finite where the classes part
        bend = (design * (chance * (1 - chance))[:, None]).T @ design + _RIDGE * len(scores) * np.eye(2)
        step = np.linalg.solve(bend, slope)
        weights += np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-10:
            break
    knots = np.linspace(scores.min(), scores.max(), _GRID) if scores.min() < scores.max() else scores[:1]
    return knots, 1 / (1 + np.exp(-(weights[0] + weights[1] * (knots - centre) / scale)))


# Reading a file of many knots takes longer than a selection; weak, so that a curve ends with its bundle.
_OF_BUNDLE: "WeakKeyDictionary[IndexBundle, tuple[tuple[int, int, int], Calibration]]" = WeakKeyDictionary()
