"""Do invariant features choose better demonstrations? Selectors side by side on a domain that nothing has seen."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from viewfold.config import Config
from viewfold.errors import InvalidInput
from viewfold.pipeline.progress import progress
from viewfold.retrieval import (
    FeatureSet,
    IndexBundle,
    Query,
    SelectConfig,
    VoteOutcomes,
    build_bundle,
    mean_interval,
    select,
    vote_outcomes,
    vote_report,
)

Strategy = Literal["random", "nearest", "invariant"]


@dataclass(frozen=True, kw_only=True)
class CompareConfig(Config):
    """How the selectors are compared."""

    k: int = 7
    exclude_group: bool = True
    """A query never sees its own group: its class has to be found through other things of that class."""
    gallery: int = 6
    """Queries whose demonstrations are kept for the report."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.k, self.gallery) < 1:
            raise ValueError(f"k and gallery must be at least 1, got {self.k} and {self.gallery}")


@dataclass(frozen=True, eq=False)
class Answers:
    """What one selector chose for every query."""

    outcomes: VoteOutcomes
    shown: dict[str, str]
    """Id and label of the queries that the report shows."""
    gallery: list[dict[str, Any]]
    """Their demonstrations."""


def compare(features: Path, bundle: Path, config: CompareConfig, held_out: Sequence[str], out: Path) -> dict[str, Any]:
    """Precision@k, vote accuracy and coverage of each selector for the labelled queries of the held-out domains.

    Random selection, nearest selection by the untrained and the pretrained encoder, and invariant selection by the
    adapted one search the same pool of images.
    """
    pool, selectors = IndexBundle.open(bundle), _selectors(features)
    answers: dict[str, Answers] = {}
    with tempfile.TemporaryDirectory() as scratch, progress("compare", total=len(selectors)) as bar:
        for selector, (name, strategy) in selectors.items():
            every = FeatureSet.load(features / name)
            index = pool if every.encoder_id == pool.info.encoder_id else _index(every, pool, Path(scratch) / name)
            answers[selector] = _answers(index, *_queries(every, held_out), strategy, config)
            bar.advance()
    best = answers[list(answers)[-1]].outcomes
    result = {
        "k": config.k,
        "queries": len(best.labels),
        "held_out": list(held_out),
        "bundle_id": pool.info.id,
        "selectors": {name: vote_report(a.outcomes, seed=config.seed).to_dict() for name, a in answers.items()},
        "gain_of_last": {
            name: asdict(mean_interval(best.precision - a.outcomes.precision, best.groups, seed=config.seed))
            for name, a in list(answers.items())[:-1]
        },
    }
    gallery = {name: a.gallery for name, a in answers.items()}
    shown = answers[list(answers)[-1]].shown
    body = json.dumps({**result, "gallery": gallery, "gallery_labels": shown}, indent=2)
    (out / "comparison.json").write_text(body + "\n", encoding="utf-8")
    return result


def _answers(
    index: IndexBundle, queries: list[Query], labels: list[str], strategy: Strategy, config: CompareConfig
) -> Answers:
    settings = SelectConfig(strategy=strategy, k=config.k, exclude_group=config.exclude_group, seed=config.seed)
    shown = _spread(queries, labels, config.gallery)
    return Answers(
        outcomes=vote_outcomes(index, queries, labels, settings),
        shown={queries[i].id: labels[i] for i in shown},
        gallery=[demos.to_dict() for demos in select(index, [queries[i] for i in shown], settings)],
    )


def _selectors(features: Path) -> dict[str, tuple[str, Strategy]]:
    """Selector to (feature set, strategy); the last one is what the others are held against."""
    found: dict[str, tuple[str, Strategy]] = {
        "random": ("pretrained", "random"),
        "nearest-untrained": ("untrained", "nearest"),
        "nearest-pretrained": ("pretrained", "nearest"),
    }
    if (features / "adapted").is_dir():
        found["invariant"] = ("adapted", "invariant")
    return found


def _index(features: FeatureSet, pool: IndexBundle, out: Path) -> IndexBundle:
    """An exact index of the same pool of images as another encoder sees them."""
    keys = set(pool.column("key"))
    return build_bundle(features.take([i for i, key in enumerate(features.keys) if key in keys]), out)


def _queries(features: FeatureSet, held_out: Sequence[str]) -> tuple[list[Query], list[str]]:
    columns = zip(*(features.column(name) for name in ("key", "label", "domain", "group", "sha256")), strict=True)
    queries, labels = [], []
    for row, (key, label, domain, group, sha256) in enumerate(columns):
        if domain in held_out and label is not None:
            queries.append(Query(id=key, vector=features.vectors[row], group=group, sha256=sha256))
            labels.append(label)
    if not queries:
        raise InvalidInput(f"no labelled image of the held-out domains {', '.join(held_out) or '(none)'} to ask with")
    return queries, labels


def _spread(queries: Sequence[Query], labels: Sequence[str], number: int) -> list[int]:
    """Rows of `number` queries, one a label, evenly over the sorted labels, the first by id: never hand-picked."""
    first: dict[str, int] = {}
    for row in sorted(range(len(queries)), key=lambda i: queries[i].id):
        first.setdefault(labels[row], row)
    names = sorted(first)
    step = max(1, len(names) // number)
    return [first[name] for name in names[::step][:number]]
