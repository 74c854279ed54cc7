"""Measure frozen encoders on labelled shards, side by side: the measured invariance card."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from viewfold.config import dump
from viewfold.errors import InvalidInput
from viewfold.jobs.card_page import card_page
from viewfold.jobs.evaluate_config import EvaluateConfig
from viewfold.jobs.freeze import Frozen, freeze, freeze_pair
from viewfold.jobs.protocols import PROTOCOLS, Inapplicable, Subject
from viewfold.jobs.transformations import TRANSFORMATIONS
from viewfold.keyed import generator, key64
from viewfold.pipeline.images import read_images
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.progress import Meter, progress
from viewfold.pipeline.stage import write_whole
from viewfold.ssl.encoder import Encoder, load_encoder
from viewfold.ssl.equivariant import EquivariantHead
from viewfold.ssl.evaluate import (
    FilterReport,
    Measure,
    degenerate_filters,
    drift_curve,
    linear_classifier,
    shift_measures,
)
from viewfold.ssl.kept_head import load_head
from viewfold.ssl.robust_crop import robust_crop

FORMAT = 1
"""Version of `card.json`."""
CARD, PAGE = "card.json", "card.html"


@dataclass(frozen=True)
class Candidate:
    """An encoder to measure, and the equivariant head that was trained with it if it was kept."""

    encoder: Encoder
    head: EquivariantHead | None = None
    folder: str = ""

    @classmethod
    def load(cls, folder: Path) -> "Candidate":
        """The encoder of a folder with its equivariant head."""
        encoder = load_encoder(folder)
        head = load_head(folder, encoder_id=encoder.id)
        return cls(encoder, head if isinstance(head, EquivariantHead) else None, str(folder))

    def untrained(self) -> "Candidate":
        """A network and a head of the same architecture with weights they could have begun with."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key64("weights", 0))
            encoder = Encoder(self.encoder.config).eval()
            return Candidate(encoder, EquivariantHead(self.head.config).eval() if self.head else None)

    def about(self) -> dict[str, Any]:
        """What the card says of it."""
        lineage: dict[str, Any] = {}
        if self.folder:
            lineage = json.loads((Path(self.folder) / "encoder.json").read_text(encoding="utf-8"))["lineage"]
        config, parts = self.encoder.config, self.encoder.parts
        return {
            "id": self.encoder.id,
            "folder": self.folder,
            "backbone": config.backbone,
            "parts": {name: part.stop - part.start for name, part in parts.items()},
            "image_size": config.preprocessing.image_size,
            "lineage": lineage,
        }


@dataclass(frozen=True)
class Findings:
    """All that was found out about one encoder."""

    measures: list[Measure]
    curves: list[dict[str, Any]]
    filters: list[FilterReport]
    skipped: dict[str, str]
    """Protocols that had nothing to say, each with the reason."""


def evaluate_encoders(
    candidates: Mapping[str, Candidate],
    *,
    train: ShardManifest,
    val: ShardManifest,
    config: EvaluateConfig,
    out: Path,
) -> dict[str, Any]:
    """Write `card.json` and `card.html`: each encoder on `val`, with heads fitted on `train`. Returns the card.

    `candidates` has `trained` and `untrained`, and may have `against`: another encoder, measured side by side.

    Raises:
        InvalidInput: nothing to evaluate on, or an encoder whose features are not finite.
    """
    window = min(candidate.encoder.config.preprocessing.image_size for candidate in candidates.values())
    if config.robust_crop >= window:
        raise InvalidInput(f"robust_crop={config.robust_crop}: must be smaller than the encoder's {window} px images")
    found: dict[str, Findings] = {}
    with progress("evaluate", total=len(candidates) * (len(PROTOCOLS) + 1)) as bar:
        for name, candidate in candidates.items():
            found[name] = examine(candidate, train, val, config, bar=bar)
    card = {
        "format": FORMAT,
        "encoders": {name: candidate.about() for name, candidate in candidates.items()},
        "data": {"train": _about(train), "val": _about(val)},
        "settings": dump(config),
        "measures": {name: [measure.to_dict() for measure in one.measures] for name, one in found.items()},
        "curves": {name: one.curves for name, one in found.items()},
        "filters": {name: [asdict(report) for report in one.filters] for name, one in found.items()},
        "skipped": [
            {"encoder": name, "what": what, "why": why}
            for name, one in found.items()
            for what, why in one.skipped.items()
        ],
    }
    write_whole(out / CARD, lambda file: file.write((json.dumps(card, indent=2, allow_nan=False) + "\n").encode()))
    write_whole(out / PAGE, lambda file: file.write(card_page(card).encode()))
    return card


def examine(
    candidate: Candidate, train: ShardManifest, val: ShardManifest, config: EvaluateConfig, *, bar: Meter
) -> Findings:
    """Every protocol on one encoder."""
    encoder = candidate.encoder
    known, asked = freeze_pair(encoder, train, val, bn_mode=config.bn_mode, seed=config.seed)
    parts = [name for name in ("invariant", "equivariant", "all") if _has(encoder, name)]
    subject = Subject(known, asked, candidate.head, tuple(parts), config)
    measures, skipped = [], {}
    for name, protocol in PROTOCOLS.items():
        try:
            measures += protocol(subject)
        except (Inapplicable, InvalidInput) as reason:  # what these data cannot show must not cost the other measures
            skipped[name] = str(reason)
        bar.advance()
    curves: list[dict[str, Any]] = []
    if not config.curve_images:
        skipped["curves"] = "curve_images is 0"
    else:
        plain = known if config.bn_mode == "frozen" else freeze(encoder, train)  # it is asked by frozen statistics
        try:
            looked, curves = look_closely(encoder, plain, val, config)
            measures += looked
        except InvalidInput as reason:
            skipped["curves"] = str(reason)
    bar.advance()
    return Findings(measures, curves, degenerate_filters(encoder.backbone), skipped)


def look_closely(
    encoder: Encoder, known: Frozen, val: ShardManifest, config: EvaluateConfig
) -> tuple[list[Measure], list[dict[str, Any]]]:
    """Invariance curves of both parts, and one-pixel shifts of the invariant part, on some images of `val`."""
    window = encoder.config.preprocessing.image_size
    canvases, groups = some_images(val, window + max(2, window // 8), config.curve_images, config.seed)
    offset = (canvases.shape[-1] - window) // 2
    images = canvases[:, :, offset : offset + window, offset : offset + window].float() / 255
    labelled = np.unique(known.label[known.label >= 0])
    classified = len(labelled) > 1 and _has(encoder, "invariant")
    predict = linear_classifier(known.split("invariant")) if classified else None
    measures, curves = [], []
    for transformation in TRANSFORMATIONS:
        seen = [encoder.encode(transformation.apply(images, strength)) for strength in transformation.strengths]
        for part in (name for name in ("invariant", "equivariant") if _has(encoder, name)):
            features = [getattr(moved, part) for moved in seen]
            own = predict if part == "invariant" else None
            curve = drift_curve(features, transformation, predict=own, groups=groups, seed=config.seed)
            measures.append(curve.measure().of_part(part))
            curves.append({**curve.to_dict(), "part": part})
    if not _has(encoder, "invariant"):
        return measures, curves
    encode = partial(_encode, encoder, "invariant")
    shift = partial(shift_measures, encode, canvases, window, predict=predict, groups=groups, seed=config.seed)
    measures += [one.of_part("invariant") for one in shift()]
    if config.robust_crop:
        robust = shift(crop=partial(robust_crop, crop=config.robust_crop))
        measures += [replace(one, name=f"invariant/robust_{one.name}") for one in robust]
    return measures, curves


def some_images(manifest: ShardManifest, size: int, number: int, seed: int) -> tuple[Tensor, np.ndarray]:
    """At most `number` stored images, uint8 `[image, 3, size, size]`, of many samples, and their groups."""
    order = generator("close look", seed).permutation(len(manifest))[:number]
    images, rows = [], []
    for batch in read_images(manifest, np.sort(order), image_size=size, batch_size=256):
        images.append(batch.images)
        rows += batch.rows
    chosen = np.linspace(0, len(rows) - 1, min(number, len(rows))).round().astype(int)
    return torch.cat(images)[torch.from_numpy(chosen)], manifest.group[np.asarray(rows)[chosen]]


def _encode(encoder: Encoder, part: str, images: Tensor) -> Tensor:
    features: Tensor = getattr(encoder.encode(images), part)
    return features


def _has(encoder: Encoder, part: str) -> bool:
    """Whether the part has any width; `all` counts only where it is not one of the other two."""
    width = encoder.parts[part].stop - encoder.parts[part].start
    others = (encoder.parts["invariant"], encoder.parts["equivariant"])
    return width > 0 and not (part == "all" and encoder.parts["all"] in others)


def _about(manifest: ShardManifest) -> dict[str, Any]:
    return {
        "manifest_hash": manifest.hash,
        "samples": len(manifest),
        "images": int(manifest.samples.image_counts().sum()),
        "classes": len(np.unique(manifest.label[manifest.label >= 0])),
        "domains": len(np.unique(manifest.domain[manifest.domain >= 0])),
    }
