"""Measure a frozen encoder on labelled shards, beside chance and beside the network it started from."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from viewfold.config import Config
from viewfold.errors import InvalidInput
from viewfold.pipeline.images import read_images
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.progress import progress
from viewfold.ssl.encoder import Encoder, Features, load_encoder
from viewfold.ssl.evaluate import (
    Measure,
    PairProbeConfig,
    Split,
    knn_accuracy,
    linear_accuracy,
    rank_measure,
    relation_r2,
    rotation_pairs,
)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """Settings of the protocols."""

    k: int = 5
    """Neighbours that vote."""
    exclude_group: bool = False
    """Nobody of a query's own group votes: for data where the same thing occurs in both splits."""
    pairs_per_object: int = 24
    """Ordered pairs of views drawn from each object for the rotation probe, where poses are recorded."""
    probe: PairProbeConfig = field(default_factory=PairProbeConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.k < 1 or self.pairs_per_object < 1:
            raise ValueError(f"k and pairs_per_object must be at least 1, got {self.k} and {self.pairs_per_object}")


@dataclass(frozen=True)
class Frozen:
    """Every image of a manifest as an encoder sees it, one row an image."""

    features: Features
    label: NDArray[np.int64]
    group: NDArray[np.int64]
    sample: NDArray[np.int64]
    latents: torch.Tensor | None


def evaluate_encoder(
    encoder: Path, untrained: Path, *, train: ShardManifest, val: ShardManifest, config: EvaluateConfig, out: Path
) -> dict[str, Any]:
    """Write `card.json`: the measures on `val` of the encoder and of the network it began as, probed on `train`."""
    card: dict[str, Any] = {"train_manifest": train.hash, "val_manifest": val.hash}
    with progress("evaluate", total=2) as bar:
        for name, folder in (("trained", encoder), ("untrained", untrained)):
            model = load_encoder(folder)
            card[f"{name}_encoder"] = model.id
            card[name] = [m.to_dict() for m in measure(model, train, val, config)]
            bar.advance()
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return card


def measure(encoder: Encoder, train: ShardManifest, val: ShardManifest, config: EvaluateConfig) -> list[Measure]:
    """kNN and linear accuracy of the invariant part, rotation R2 of the equivariant part, effective rank of each."""
    known, asked = freeze(encoder, train), freeze(encoder, val)
    shelf, queries = invariant_splits(known, asked, train=train, val=val)
    measures = knn_accuracy(shelf, queries, k=config.k, exclude_group=config.exclude_group, seed=config.seed)
    measures += linear_accuracy(shelf, queries, seed=config.seed)
    if asked.features.equivariant.shape[1] and known.latents is not None and asked.latents is not None:
        train_pairs, val_pairs = (
            rotation_pairs(
                split.features.equivariant,
                split.latents[:, :3],
                split.sample,
                pairs_per_object=config.pairs_per_object,
                seed=config.seed,
            )
            for split in (known, asked)
            if split.latents is not None
        )
        measures += relation_r2(train_pairs, val_pairs, config.probe, seed=config.seed)
    return [*measures, rank_measure(asked.features.invariant)]


def invariant_splits(known: Frozen, asked: Frozen, *, train: ShardManifest, val: ShardManifest) -> tuple[Split, Split]:
    """Gallery and queries of the invariant part, labels and groups of both in the vocabularies of `train`."""
    # Indices point into each manifest's own vocabularies, and two of these seldom hold the same names.
    label = translated(asked.label, val.labels, train.labels)
    group = translated(asked.group, val.groups, train.groups)
    gallery = Split.of(known.features.invariant, known.label, known.group)
    return gallery, Split.of(asked.features.invariant, label, group)


def translated(indices: NDArray[np.int64], own: Sequence[str], other: Sequence[str]) -> NDArray[np.int64]:
    """Indices into `own` as indices into `other`; names that `other` lacks get numbers beyond it, and -1 stays."""
    place = {name: number for number, name in enumerate(dict.fromkeys([*other, *own]))}
    lookup = np.array([*(place[name] for name in own), -1], dtype=np.int64)
    return lookup[indices]


def freeze(encoder: Encoder, manifest: ShardManifest, *, batch_size: int = 256) -> Frozen:
    """Encode every stored image of `manifest`, in this process."""
    if len(manifest) == 0:
        raise InvalidInput("no samples to evaluate on; check the shards and filters of `validation`")
    rows = np.arange(len(manifest))
    batches = list(
        read_images(manifest, rows, image_size=encoder.config.preprocessing.image_size, batch_size=batch_size)
    )
    parts = [encoder.encode(batch.images) for batch in batches]
    sample = np.concatenate([np.asarray(batch.rows) for batch in batches])
    latents = None if batches[0].latents is None else torch.cat([b.latents for b in batches if b.latents is not None])
    return Frozen(
        features=Features(*(torch.cat(columns) for columns in zip(*map(_parts, parts), strict=True))),
        label=manifest.label[sample],
        group=manifest.group[sample],
        sample=sample,
        latents=latents,
    )


def _parts(features: Features) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return features.invariant, features.equivariant, features.all
