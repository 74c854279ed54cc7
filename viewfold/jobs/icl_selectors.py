"""What each selector of one fold chooses for the images of its held-out domains."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from viewfold.jobs.icl_config import IclConfig
from viewfold.jobs.icl_data import fold_parts
from viewfold.jobs.icl_encoders import FoldFeatures
from viewfold.retrieval import FeatureSet, IndexBundle, Query, SelectConfig, build_bundle, select
from viewfold.retrieval.icl import Choices, Coded, Leakage, Pool, domain_gap, neighbour_leakage
from viewfold.retrieval.selection.abstention import AbstainConfig
from viewfold.retrieval.selection.calibration import fit_calibration
from viewfold.retrieval.selection.guards import GuardConfig
from viewfold.retrieval.vote import eligible_shares

RANDOM, NEAREST, PIXELS, ORACLE = "random", "nearest", "pixels", "oracle"
Strategy = Literal["random", "nearest", "oracle"]

# Guards of looks would take other images from one selector than from the next: the group keeps copies out.
_NO_LOOKS = GuardConfig(phash_distance=None, duplicate_cosine=None)


def invariant(adaptation: str) -> str:
    """The selector that chooses the nearest by the encoder of an adaptation."""
    return f"invariant:{adaptation}"


@dataclass(frozen=True, eq=False)
class Asked:
    """The queries of one fold; every list is in the order of the queries."""

    ids: list[str]
    labels: list[str]
    groups: list[str]
    """A query without a group is one of its own."""
    chance: NDArray[np.float64]
    """Share of the query's label among the images that it may see: 0 where no answer can be copied."""


@dataclass(frozen=True, eq=False)
class Space:
    """How one encoder's features lie, whatever is asked."""

    gap: float | None
    """`domain_gap` over all domains, the held-out ones among them."""
    gap_of_sources: float | None
    """The same over the domains that are chosen from."""
    leakage: Leakage | None
    """Of the images that are chosen from."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """What one selector with one seed chose, and the space that it chose in."""

    choices: Choices
    space: Space | None
    """None where the choice does not follow from an encoder."""


@dataclass(frozen=True, eq=False)
class FoldChoices:
    """All selectors of one fold."""

    asked: Asked
    pool: Pool
    keys: list[str]
    """Of the pool's images, by row."""
    selectors: Mapping[str, Mapping[int, Chosen]]
    """By name and seed; a selector without seeds has the seed 0 alone."""


@dataclass(frozen=True, eq=False)
class _Searched:
    """One encoder's index of the pool, and the queries as it sees them."""

    bundle: IndexBundle
    queries: list[Query]
    labels: list[str]
    space: Space


def fold_choices(config: IclConfig, features: FoldFeatures) -> FoldChoices:
    """Let every selector choose the largest `k`, for the labelled images of the fold's domains and unseen groups.

    Raises:
        InvalidInput: nobody to ask, or nothing to choose from.
    """
    with tempfile.TemporaryDirectory(prefix="viewfold-") as folder:
        scratch = Path(folder)
        base = _searched(features.base, config, features, scratch / "base")
        selectors = {RANDOM: {seed: _chosen(base, config, "random", seed) for seed in config.random_seeds}}
        pixels = _searched(features.pixels, config, features, scratch / "pixels")
        selectors[PIXELS] = {0: _chosen(pixels, config)}
        selectors[NEAREST] = {0: _chosen(base, config)}
        for adaptation, by_seed in features.adapted.items():
            selectors[invariant(adaptation)] = {
                seed: _chosen(_searched(path, config, features, scratch / f"{adaptation}-{seed}"), config)
                for seed, path in by_seed.items()
            }
        selectors[ORACLE] = {0: _chosen(base, config, "oracle")}
        return FoldChoices(
            asked=Asked(
                ids=[query.id for query in base.queries],
                labels=base.labels,
                groups=[query.id if query.group is None else query.group for query in base.queries],
                chance=eligible_shares(base.bundle, base.queries, base.labels, exclude_group=config.exclude_group),
            ),
            pool=Pool(
                label=Coded.of(base.bundle.column("label")),
                domain=Coded.of(base.bundle.column("domain")),
                base_vectors=_unit_vectors(FeatureSet.load(features.base), base.bundle.column("key")),
            ),
            keys=base.bundle.column("key"),
            selectors=selectors,
        )


def _searched(path: Path, config: IclConfig, fold: FoldFeatures, scratch: Path) -> _Searched:
    features = FeatureSet.load(path)
    labels, domains, groups = (features.column(name) for name in ("label", "domain", "group"))
    pool, asked = fold_parts(config.data, fold.domains, fold.unseen, label=labels, domain=domains, group=groups)
    chosen_from = features.take(pool)
    columns = zip(*(features.take(asked).column(name) for name in ("key", "group", "sha256")), strict=True)
    # Exact, whatever the size: a search that misses some would miss more of one encoder's than of the next.
    return _Searched(
        bundle=build_bundle(chosen_from, scratch, factory="Flat"),
        queries=[
            Query(id=key, vector=features.vectors[row], group=group, sha256=sha256)
            for row, (key, group, sha256) in zip(asked, columns, strict=True)
        ],
        labels=[labels[row] for row in asked],
        space=_space(features.take([*pool, *asked]), chosen_from),
    )


def _space(every: FeatureSet, pool: FeatureSet) -> Space:
    def gap(features: FeatureSet) -> float | None:
        label, domain = (Coded.of(features.column(name)).codes for name in ("label", "domain"))
        return domain_gap(_unit(features.vectors), label, domain)

    domain, group = (Coded.of(pool.column(name)).codes for name in ("domain", "group"))
    known = np.flatnonzero(domain >= 0)
    leakage = neighbour_leakage(_unit(pool.vectors[known]), domain[known], group[known]) if known.size else None
    return Space(gap(every), gap(pool), leakage)


def _chosen(searched: _Searched, config: IclConfig, strategy: Strategy = "nearest", seed: int = 0) -> Chosen:
    calibrated = strategy == "nearest" and len(set(searched.bundle.column("domain")) - {None}) > 1
    settings = SelectConfig(
        strategy=strategy,
        k=config.max_k,
        exclude_group=config.exclude_group,
        guards=_NO_LOOKS,
        abstain=AbstainConfig(calibration=fit_calibration(searched.bundle) if calibrated else None),
        seed=seed,
    )
    labels = searched.labels if strategy == "oracle" else None
    demos = select(searched.bundle, searched.queries, settings, labels=labels)
    return Chosen(
        choices=Choices.of(searched.bundle, demos, config.max_k),
        space=searched.space if strategy == "nearest" else None,
    )


def _unit_vectors(features: FeatureSet, keys: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors of these images, in this order."""
    row = {key: number for number, key in enumerate(features.keys)}
    return _unit(features.vectors[[row[key] for key in keys]])


def _unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
