"""Do invariant features choose better demonstrations? Selectors side by side on a domain that nothing has seen."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viewfold.config import Config
from viewfold.errors import InvalidInput
from viewfold.retrieval import (
    FeatureSet,
    IndexBundle,
    Query,
    SelectConfig,
    build_bundle,
    mean_interval,
    select,
    vote_outcomes,
    vote_report,
)


@dataclass(frozen=True, kw_only=True)
class CompareConfig(Config):
    """How the selectors are compared."""

    k: int = 7
    exclude_group: bool = True
    """A query never sees its own group: its class has to be found through other things of that class."""
    gallery: int = 6
    """Queries whose demonstrations are kept for the report."""
    seed: int = 0


def compare(features: Path, bundle: Path, config: CompareConfig, held_out: Sequence[str], out: Path) -> dict[str, Any]:
    """Precision@k, vote accuracy and coverage of each selector for the labelled queries of the held-out domains.

    Random selection, nearest selection by the untrained and the pretrained encoder, and invariant selection by the
    adapted one search the same pool of images.
    """
    pool = IndexBundle.open(bundle)
    keys = set(pool.column("key"))
    rows: dict[str, Any] = {}
    differences: dict[str, Any] = {}
    gallery: dict[str, list[dict[str, Any]]] = {}
    precision = {}
    with tempfile.TemporaryDirectory() as scratch:
        for selector, (name, strategy) in _selectors(features).items():
            every = FeatureSet.load(features / name)
            index = pool if every.encoder_id == pool.info.encoder_id else _index(every, keys, Path(scratch) / name)
            queries, labels = _queries(every, held_out)
            settings = SelectConfig(strategy=strategy, k=config.k, exclude_group=config.exclude_group, seed=config.seed)
            outcomes = vote_outcomes(index, queries, labels, settings)
            rows[selector] = vote_report(outcomes, seed=config.seed).to_dict()
            precision[selector] = outcomes.precision
            groups = outcomes.groups
            shown = _spread(queries, labels, config.gallery)
            gallery[selector] = [demos.to_dict() for demos in select(index, [queries[i] for i in shown], settings)]
    best = list(precision)[-1]
    for selector, values in precision.items():
        if selector != best:
            gain = mean_interval(precision[best] - values, groups, seed=config.seed)
            differences[selector] = {"value": gain.value, "low": gain.low, "high": gain.high}
    result = {
        "k": config.k,
        "queries": len(labels),
        "held_out": list(held_out),
        "bundle_id": pool.info.id,
        "selectors": rows,
        f"gain_of_{best}_over": differences,
    }
    shown_labels = {queries[i].id: labels[i] for i in shown}
    body = json.dumps({**result, "gallery": gallery, "gallery_labels": shown_labels}, indent=2)
    (out / "comparison.json").write_text(body + "\n", encoding="utf-8")
    return result


def _selectors(features: Path) -> dict[str, tuple[str, Any]]:
    """Selector to (feature set, strategy); the last one is what the others are held against."""
    found: dict[str, tuple[str, Any]] = {
        "random": ("pretrained", "random"),
        "nearest-untrained": ("untrained", "nearest"),
        "nearest-pretrained": ("pretrained", "nearest"),
    }
    if (features / "adapted").is_dir():
        found["invariant"] = ("adapted", "invariant")
    return found


def _index(features: FeatureSet, keys: set[str], out: Path) -> IndexBundle:
    """An exact index of the same pool of images as another encoder sees them."""
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
