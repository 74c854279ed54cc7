"""The measures that gates ask for, of any encoder on any queries: two encoders are measured on the same rows."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from viewfold.errors import InvalidInput, ShardError
from viewfold.jobs.evaluate import some_images
from viewfold.jobs.evaluate_config import EvaluateConfig
from viewfold.jobs.freeze import Frozen, freeze, numbered_as
from viewfold.jobs.gates_rules import Found, Missing
from viewfold.jobs.protocols import Inapplicable, Subject, require_groups, require_invariant, require_labels, rotation
from viewfold.pipeline.manifest import ShardManifest
from viewfold.ssl.encoder import Encoder
from viewfold.ssl.evaluate import (
    Measure,
    knn_accuracy,
    linear_classifier,
    rank_measure,
    retrieval_precision,
    shift_measures,
)


@dataclass(frozen=True)
class Seer:
    """An encoder with what it makes of the data that its heads are fitted on: encoded once, for all queries."""

    encoder: Encoder
    train: ShardManifest
    known: Frozen

    @classmethod
    def of(cls, encoder: Encoder, train: ShardManifest) -> "Seer":
        """Encode `train`, in this process.

        Raises:
            InvalidInput: features that are not finite; a `ShardError` where an image cannot be read.
        """
        return cls(encoder, train, freeze(encoder, train))


@dataclass(frozen=True)
class Asked:
    """One encoder and one set of queries."""

    subject: Subject
    encoder: Encoder
    queries: ShardManifest
    precision_k: int
    shift_images: int


def measured(
    seer: Seer,
    queries: ShardManifest,
    gates: Iterable[str],
    config: EvaluateConfig,
    *,
    precision_k: int,
    shift_images: int,
) -> dict[str, Found]:
    """The measure of each gate of `MEASURES`, or why there is none.

    Rows and their groups are the same for every encoder, and so are the draws of the intervals.

    Raises:
        ShardError: an image cannot be read.
    """
    try:
        seen = numbered_as(freeze(seer.encoder, queries), queries, seer.train)
    except ShardError:
        raise
    except InvalidInput as reason:  # a diverged encoder is no error of the data, and must not end the night
        return dict.fromkeys(gates, Missing(str(reason), broken=True))
    known, seen = _same_groups(seer.known, seen)
    parts = tuple(name for name in ("invariant", "equivariant") if seen.part(name).shape[1])
    subject = Subject(known, seen, None, parts, config)
    asked = Asked(subject, seer.encoder, queries, precision_k, shift_images)
    return {gate: _found(gate, asked) for gate in gates}


def _found(gate: str, asked: Asked) -> Found:
    try:
        return MEASURES[gate](asked)
    except ShardError:
        raise
    except (Inapplicable, InvalidInput) as reason:  # what these data cannot show must not cost the other measures
        return Missing(str(reason))


def _same_groups(known: Frozen, asked: Frozen) -> tuple[Frozen, Frozen]:
    """Groups numbered by their first row among the queries, whatever names the training data brought before them."""
    both = np.concatenate([asked.group, known.group])
    _, first, place = np.unique(both, return_index=True, return_inverse=True)
    numbers = first.argsort().argsort()[place]
    return (
        replace(known, group=numbers[len(asked.group) :]),
        replace(asked, group=numbers[: len(asked.group)]),
    )


def _knn(asked: Asked) -> Measure:
    subject = _classified(asked)
    config = subject.config
    shelf, queries = subject.known.split("invariant"), subject.asked.split("invariant")
    found = knn_accuracy(shelf, queries, k=config.k, exclude_group=config.exclude_group, seed=config.seed)
    return next(one for one in found if one.name == f"knn{config.k}/top1")


def _precision(asked: Asked) -> Measure:
    subject = _classified(asked)
    return retrieval_precision(
        subject.known.split("invariant"),
        subject.asked.split("invariant"),
        k=asked.precision_k,
        exclude_group=subject.config.exclude_group,
        seed=subject.config.seed,
    )


def _rotation(asked: Asked) -> Measure:
    if "equivariant" not in asked.subject.parts:
        raise Inapplicable("the encoder has no equivariant part")
    found = rotation(replace(asked.subject, parts=("equivariant",)))
    return next(one for one in found if one.name == "equivariant/rotation/r2")


def _rank(asked: Asked) -> Measure:
    require_invariant(asked.subject)
    return rank_measure(asked.subject.asked.part("invariant"))


def _shift(asked: Asked) -> Measure:
    require_invariant(asked.subject)
    labelled = np.unique(asked.subject.known.label[asked.subject.known.label >= 0])
    if len(labelled) < 2:
        raise Inapplicable("the training data has fewer than two classes to tell shifted images by")
    window, seed = asked.encoder.config.preprocessing.image_size, asked.subject.config.seed
    canvases, groups = some_images(asked.queries, window + max(2, window // 8), asked.shift_images, seed)
    found = shift_measures(
        partial(_encode, asked.encoder),
        canvases,
        window,
        predict=linear_classifier(asked.subject.known.split("invariant")),
        groups=groups,
        seed=seed,
    )
    return next(one for one in found if one.name == "shift/consistency")


MEASURES: Mapping[str, Callable[[Asked], Measure]] = {
    "knn": _knn,
    "precision": _precision,
    "rotation_r2": _rotation,
    "effective_rank": _rank,
    "shift_consistency": _shift,
}
"""By gate: the field of `GatesConfig`."""


def _classified(asked: Asked) -> Subject:
    require_invariant(asked.subject)
    require_labels(asked.subject)
    require_groups(asked.subject)
    return asked.subject


def _encode(encoder: Encoder, images: torch.Tensor) -> torch.Tensor:
    features: torch.Tensor = encoder.encode(images).invariant
    return features
