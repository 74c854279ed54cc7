"""Which protocols an encoder is measured by: each takes the frozen data and answers with measures, or why it cannot."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewfold.jobs.evaluate_config import EvaluateConfig
from viewfold.jobs.freeze import Frozen
from viewfold.keyed import generator
from viewfold.retrieval import nearest
from viewfold.ssl.equivariant import EquivariantHead
from viewfold.ssl.evaluate import (
    Gallery,
    Measure,
    Pairs,
    PredictedViews,
    Split,
    alignment,
    clustering,
    detection,
    domain_gap,
    draw_pairs,
    fitted_predictor,
    knn_accuracy,
    linear_accuracy,
    predict_views,
    prediction_error,
    rank_measure,
    relation_pairs,
    relation_r2,
    retrieval_precision,
    uniformity,
    view_retrieval,
)
from viewfold.ssl.methods.relations import RELATIONS, Recorded


class Inapplicable(Exception):
    """Why a protocol has nothing to say about this encoder or these data; not an error."""


@dataclass(frozen=True)
class Subject:
    """One encoder's features of the data: `known` is what heads are fitted on, `asked` what they are judged on."""

    known: Frozen
    asked: Frozen
    head: EquivariantHead | None
    """Of this encoder, where it was kept."""
    parts: tuple[str, ...]
    """Parts of the features that have a width; `all` only where it is not one of the other two."""
    config: EvaluateConfig


Protocol = Callable[[Subject], list[Measure]]


def classes(subject: Subject) -> list[Measure]:
    """kNN and linear accuracy of each part."""
    require_labels(subject)
    require_groups(subject)
    config, measures = subject.config, []
    for part in subject.parts:
        shelf, queries = subject.known.split(part), subject.asked.split(part)
        found = knn_accuracy(shelf, queries, k=config.k, exclude_group=config.exclude_group, seed=config.seed)
        found += linear_accuracy(shelf, queries, seed=config.seed)
        measures += [one.of_part(part) for one in found]
    return measures


def precision(subject: Subject) -> list[Measure]:
    """Precision of retrieval by each part."""
    require_labels(subject)
    require_groups(subject)
    config = subject.config
    return [
        retrieval_precision(
            subject.known.split(part), subject.asked.split(part), exclude_group=config.exclude_group, seed=config.seed
        ).of_part(part)
        for part in subject.parts
    ]


def rotation(subject: Subject) -> list[Measure]:
    """R2 of the relative rotation of two views, from each part."""
    return _relation(subject, "rotation")


def colour(subject: Subject) -> list[Measure]:
    """R2 of the hue differences of two views, from each part."""
    return _relation(subject, "colour")


def retrieval(subject: Subject) -> list[Measure]:
    """Whether the encoder's own predictor finds the transformed view of an object: MRR, H@k and PRE."""
    if subject.head is None:
        raise Inapplicable("the encoder was saved without an equivariant head, which predicts views")
    _require_recorded(subject.head.config.transformation, subject.known, subject.asked)
    part = subject.head.config.part
    return [measure.of_part(part) for measure in _retrieval(subject, subject.head, part)]


def fitted_retrieval(subject: Subject) -> list[Measure]:
    """The same with a linear predictor fitted to the frozen features of each part, which any encoder can have."""
    _require_recorded("rotation", subject.known, subject.asked)
    measures = []
    for part in subject.parts:
        pairs = _pairs(subject, subject.known, part, "rotation")
        head = fitted_predictor(pairs, part=part, transformation="rotation")
        measures += [replace(one, name=f"{part}/fitted_{one.name}") for one in _retrieval(subject, head, part)]
    return measures


def clusters(subject: Subject) -> list[Measure]:
    """Whether k-means on the invariant part finds the classes."""
    require_invariant(subject)
    require_labels(subject)
    found = clustering(subject.asked.split("invariant"), seed=subject.config.seed)
    return [measure.of_part("invariant") for measure in found]


def spread(subject: Subject) -> list[Measure]:
    """How the features lie: effective rank, alignment of views of one sample, uniformity."""
    measures = []
    for part in subject.parts:
        features = subject.asked.part(part)
        found = [rank_measure(features), uniformity(features, subject.asked.group, seed=subject.config.seed)]
        if len(np.unique(subject.asked.sample)) < len(subject.asked.sample):
            first, second = draw_pairs(subject.asked.sample, pairs_per_object=8, seed=subject.config.seed)
            found.append(alignment(features, first, second, subject.asked.group, seed=subject.config.seed))
        measures += [one.of_part(part) for one in found]
    return measures


def domains(subject: Subject) -> list[Measure]:
    """Accuracy on a domain that the classifier never saw, of the invariant part; each domain is left out once."""
    require_invariant(subject)
    require_labels(subject)
    known, asked = subject.known, subject.asked
    domain = np.concatenate([known.domain, asked.domain])
    if len(np.unique(domain[domain >= 0])) < 2:
        raise Inapplicable("the data has fewer than two domains")
    both = Split.of(
        torch.cat([known.part("invariant"), asked.part("invariant")]),
        np.concatenate([known.label, asked.label]),
        np.concatenate([known.group, asked.group]),
    )
    return [one.of_part("invariant") for one in domain_gap(both, torch.from_numpy(domain), seed=subject.config.seed)]


def outside(subject: Subject) -> list[Measure]:
    """Whether images of domains that were never seen stand out, against validation images of known domains.

    Where the validation data has none of those, a fifth of the training groups stand in, and the detail says so.
    """
    require_invariant(subject)
    known, asked = subject.known, subject.asked
    strange = ~np.isin(asked.domain, known.domain) & (asked.domain >= 0)
    if not strange.any():
        raise Inapplicable("the validation data has no domain that the training data lacks")
    familiar, held = np.isin(asked.domain, known.domain), np.zeros(len(known.group), dtype=bool)
    if not familiar.any():
        groups = np.unique(known.group)
        held = np.isin(known.group, generator("held back", subject.config.seed).permutation(groups)[: len(groups) // 5])
        if not held.any():
            raise Inapplicable("no validation image is of a known domain, and too few training groups could stand in")
    inside = _rows(asked, familiar) if familiar.any() else _rows(known, held)
    found = detection(_rows(known, ~held).features, inside, _rows(asked, strange), seed=subject.config.seed)
    which = "validation" if familiar.any() else "training images that were held back from the gallery"
    return [replace(one, detail=one.detail | {"inside": which}).of_part("invariant") for one in found]


NUM_LATENTS = 7
"""Of 3DIEBench: three angles, hue of the floor, two angles of the light, its hue. Others may mean anything."""

PROTOCOLS: Mapping[str, Protocol] = {
    "classes": classes,
    "precision": precision,
    "rotation": rotation,
    "colour": colour,
    "retrieval": retrieval,
    "fitted retrieval": fitted_retrieval,
    "clusters": clusters,
    "spread": spread,
    "domains": domains,
    "outside": outside,
}
"""In the order of the card. A new one is a function here that calls its file in `ssl/evaluate/`, and a line."""


def _relation(subject: Subject, name: str) -> list[Measure]:
    _require_recorded(name, subject.known, subject.asked)
    config, measures = subject.config, []
    for part in subject.parts:
        train, val = (_pairs(subject, split, part, name) for split in (subject.known, subject.asked))
        measures += [one.of_part(part) for one in relation_r2(train, val, config.probe, name=name, seed=config.seed)]
    return measures


def _pairs(subject: Subject, split: Frozen, part: str, name: str) -> Pairs:
    """Pairs of views of one sample; what the bootstrap draws are the groups."""
    pairs = relation_pairs(
        split.part(part),
        _latents(split),
        split.sample,
        relate=_relate(name, _latent_names(split)),
        pairs_per_object=subject.config.pairs_per_object,
        seed=subject.config.seed,
    )
    return replace(pairs, group=torch.from_numpy(split.group)[pairs.first])


def _retrieval(subject: Subject, head: EquivariantHead, part: str) -> list[Measure]:
    views, known = (_predicted(head, split, part) for split in (subject.asked, subject.known))
    seed = subject.config.seed
    train = Gallery(known.embeddings, _latents(subject.known)[:, :3])
    found = view_retrieval(views, seed=seed)
    if _latents(subject.asked).shape[1] == NUM_LATENTS:
        found += prediction_error(views, _latents(subject.asked)[:, :3], train=train, search=nearest, seed=seed)
    return found


def _predicted(head: EquivariantHead, split: Frozen, part: str) -> PredictedViews:
    names = _latent_names(split)
    return predict_views(head, split.part(part), _latents(split), split.sample, names=names, groups=split.group)


def _relate(name: str, names: Sequence[str]) -> Callable[[Tensor, Tensor], Tensor]:
    relation = RELATIONS[name]
    assert isinstance(relation, Recorded)
    return lambda first, second: relation.between(first, second, names)


def _latents(split: Frozen) -> Tensor:
    assert split.latents is not None
    return split.latents


def _latent_names(split: Frozen) -> tuple[str, ...]:
    width = 0 if split.latents is None else split.latents.shape[1]
    return tuple(f"latent_{column}" for column in range(width))


def _missing(name: str, split: Frozen) -> list[str]:
    """Columns that the relation reads and the split has not."""
    relation, names = RELATIONS[name], _latent_names(split)
    assert isinstance(relation, Recorded)
    return [] if relation.reads(names) and set(relation.reads(names)) <= set(names) else list(relation.reads(names))


def _require_recorded(name: str, *splits: Frozen) -> None:
    """Raises unless the samples hold several images with the latents that the relation reads."""
    if not isinstance(RELATIONS[name], Recorded):
        raise Inapplicable(f"its predictor follows what was {name}, which stored images do not record")
    for split in splits:
        if split.latents is None or _missing(name, split):
            raise Inapplicable(f"the data records no {', '.join(_missing(name, split)) or 'latents'}")
        if name != "difference" and split.latents.shape[1] != NUM_LATENTS:
            raise Inapplicable(
                f"the {split.latents.shape[1]} latents of the data are not the {NUM_LATENTS} of 3DIEBench, whose "
                "meaning is known"
            )
        if len(np.unique(split.sample)) == len(split.sample):
            raise Inapplicable("each sample holds a single image")


def _rows(split: Frozen, rows: NDArray[np.bool_]) -> Split:
    """The invariant part of some images."""
    return Split.of(split.part("invariant")[torch.from_numpy(rows)], split.label[rows], split.group[rows])


def require_invariant(subject: Subject) -> None:
    """Raises `Inapplicable` where the encoder has no invariant part."""
    if "invariant" not in subject.parts:
        raise Inapplicable("the encoder has no invariant part")


def require_groups(subject: Subject) -> None:
    """Raises `Inapplicable` where groups are to be kept apart and some image has none."""
    if subject.config.exclude_group and not subject.asked.grouped:
        raise Inapplicable("exclude_group needs a group for every validation sample; record groups, or leave it out")


def require_labels(subject: Subject) -> None:
    """Raises `Inapplicable` where there are no classes to tell apart, or none to ask about."""
    for what, split in (("training", subject.known), ("validation", subject.asked)):
        if not (split.label >= 0).any():
            raise Inapplicable(f"no image of the {what} data has a label")
    if len(np.unique(subject.known.label[subject.known.label >= 0])) < 2:
        raise Inapplicable("the training data has a single class")
