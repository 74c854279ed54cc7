"""The images of an in-context evaluation: who asks, what is chosen from, what is learned from, and whether it fits."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from viewfold.config import unknown
from viewfold.errors import InvalidInput
from viewfold.jobs.data import DataConfig, source
from viewfold.jobs.icl_config import IclConfig
from viewfold.jobs.train_config import TrainConfig, training_data
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.order import split_groups
from viewfold.pipeline.stream import check_stream
from viewfold.retrieval.prompt import answer_schema

Column = Sequence[str | None]


class Parts(NamedTuple):
    """Rows of the two parts that a fold makes of the labelled images."""

    pool: list[int]
    asked: list[int]


def unseen_groups(config: IclConfig, manifest: ShardManifest) -> frozenset[str] | None:
    """The groups that nothing learns from, about `config.unseen_share` of what `config.data` asks for; None: all ask.

    Raises:
        InvalidInput: fewer than two groups.
    """
    if not config.unseen_share:
        return None
    domain, group = _names(manifest.domain, manifest.domains), _names(manifest.group, manifest.groups)
    rows = np.flatnonzero(_used(config.data, domain, group) & (manifest.group >= 0))
    if len(np.unique(manifest.group[rows])) < 2:
        raise InvalidInput("unseen_share: the images are not of two groups or more; record `group`, or leave it out")
    split = split_groups(
        manifest.group[rows],
        names=manifest.groups,
        key=lambda row: manifest.key(int(rows[row])),
        share=config.unseen_share,
        seed=config.seed,
    )
    return frozenset(manifest.groups[number] for number in np.unique(manifest.group[rows[split.query]]))


def fold_parts(
    data: DataConfig,
    held_out: Collection[str],
    unseen: frozenset[str] | None,
    *,
    label: Column,
    domain: Column,
    group: Column,
) -> Parts:
    """What is chosen from and who asks when the domains `held_out` are; every column is `[image]`.

    Where there are `unseen` groups their images alone ask, and those of no group, which have no likeness elsewhere.

    Raises:
        InvalidInput: one of the two is empty.
    """
    rows = [row for row in np.flatnonzero(_used(data, domain, group)).tolist() if label[row] is not None]
    pool = [row for row in rows if domain[row] not in held_out]
    asked = [
        row for row in rows
        if domain[row] in held_out and (unseen is None or group[row] is None or group[row] in unseen)
    ]  # fmt: skip
    if not pool or not asked:
        raise InvalidInput(
            f"{len(asked)} labelled images of {', '.join(held_out)} to ask with and {len(pool)} of other domains to "
            "choose from; name other folds"
        )
    return Parts(pool, asked)


def learned_from(
    config: IclConfig, held_out: Sequence[str], unseen: frozenset[str] | None, *, labelled: bool
) -> DataConfig:
    """What may be learned from when the domains `held_out` are."""
    data = config.data
    return replace(
        data,
        without_domains=(*data.without_domains, *held_out),
        without_groups=(*data.without_groups, *sorted(unseen or ())),
        labelled=data.labelled or labelled,
    )


def check_evaluation(config: IclConfig, manifest: Path, unseen: frozenset[str] | None) -> None:
    """Find what would stop a fold, or the model, after hours of training.

    Raises:
        InvalidInput: a fold has an unknown domain or one that `data` leaves out, nobody to ask, nothing to choose from
            or no query whose class is there; a training has too little to learn from; words for an unknown class.
    """
    loaded = ShardManifest.load(manifest)
    source(manifest, config.data)
    label, domain = _names(loaded.label, loaded.labels), _names(loaded.domain, loaded.domains)
    group = _names(loaded.group, loaded.groups)
    for held_out in config.folds:
        _check_domains(config.data, held_out, loaded.domains)
        parts = fold_parts(config.data, held_out, unseen, label=label, domain=domain, group=group)
        _check_classes(parts, held_out, label, group if config.exclude_group else [None] * len(group))
        if config.pretrain is not None:
            _check_training(config.pretrain, learned_from(config, held_out, unseen, labelled=False), manifest)
        for training in config.adaptations.values():
            _check_training(training, learned_from(config, held_out, unseen, labelled=True), manifest)
    if config.lmm is not None:
        used = np.flatnonzero(_used(config.data, domain, group)).tolist()
        answer_schema(config.lmm.prompt, sorted({name for row in used if (name := label[row]) is not None}))


def _names(codes: NDArray[np.int64], names: Sequence[str]) -> list[str | None]:
    return [None if code < 0 else names[code] for code in codes.tolist()]


def _used(data: DataConfig, domain: Column, group: Column) -> NDArray[np.bool_]:
    """Which images `data` asks for, labels aside."""
    kept, dropped, groups = set(data.domains), set(data.without_domains), set(data.without_groups)
    return np.array(
        [
            (not kept or one in kept) and one not in dropped and its not in groups
            for one, its in zip(domain, group, strict=True)
        ],
        dtype=np.bool_,
    )


def _check_domains(data: DataConfig, held_out: Sequence[str], known: Sequence[str]) -> None:
    for name in held_out:
        if name not in known:
            raise unknown("domain of folds", name, known)
        if name in data.without_domains or (data.domains and name not in data.domains):
            raise InvalidInput(
                f"folds: data leaves domain {name} out, so it cannot be asked about; leave it out here too"
            )


def _check_classes(parts: Parts, held_out: Sequence[str], label: Column, group: Column) -> None:
    """Whether some query finds an image of its class that is not of its own group."""
    shown: defaultdict[str | None, set[str | None]] = defaultdict(set)
    for row in parts.pool:
        shown[label[row]].add(group[row])
    if not any(shown[label[row]] - ({group[row]} - {None}) for row in parts.asked):
        raise InvalidInput(
            f"fold {', '.join(held_out)}: no query finds an image of its class in the other domains that is not of "
            "its own group"
        )


def _check_training(training: TrainConfig, data: DataConfig, manifest: Path) -> None:
    learned = source(manifest, training_data(training, data, manifest))
    check_stream(learned, training.stream, world_size=training.workers)
