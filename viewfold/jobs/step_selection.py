"""Which step's encoder a training keeps: the best one for source domains that it does not learn from.

Never a domain that is held out of the whole run: that is what the result is measured on, and choosing by it would
report a choice instead of a result.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from viewfold.config import Config, unknown
from viewfold.errors import InvalidInput
from viewfold.jobs.data import DataConfig
from viewfold.pipeline.images import read_images
from viewfold.pipeline.manifest import ShardManifest
from viewfold.ssl.dist import rank
from viewfold.ssl.encoder import Encoder, trained_encoder
from viewfold.ssl.engine import AbstractEngine
from viewfold.ssl.evaluate.measure import Split
from viewfold.ssl.evaluate.precision import retrieval_precision
from viewfold.ssl.loop import Hook, Step

SELECTION = "selection.jsonl"
"""In the training's folder: a row for every step that was looked at."""
_FILE = "selected.safetensors"  # in a checkpoint: the best weights so far


@dataclass(frozen=True, kw_only=True)
class SelectionConfig(Config):
    """How the best step is found: precision of the k nearest training images of each image of some source domains."""

    domains: tuple[str, ...]
    """Left out of the training; ones that the run does not hold out. Domains that are nearly alike belong together."""
    every: int = 100
    """Steps between looks; the encoder before the first step and after the last are looked at too."""
    k: int = 7
    """Neighbours by cosine, none of the query's own group."""

    def __post_init__(self) -> None:
        if not self.domains:
            raise ValueError("domains must name at least one")
        if min(self.every, self.k) < 1:
            raise ValueError(f"every and k must be at least 1, got {self.every} and {self.k}")


@dataclass(frozen=True)
class SelectionSources:
    """The data of a training that has domains to choose by, in two."""

    train: DataConfig
    queries: DataConfig


def selection_sources(data: DataConfig, select: SelectionConfig, manifest: ShardManifest) -> SelectionSources:
    """What is learned from and what is chosen by.

    Raises:
        InvalidInput: the data has no such domain, holds it out, or has no other.
    """
    learned = set(data.domains or manifest.domains) - set(data.without_domains)
    for domain in select.domains:
        if domain not in manifest.domains:
            raise unknown("domain of select", domain, manifest.domains)
        if domain not in learned:
            raise InvalidInput(
                f"select: domain {domain} is held out of this run, and a step chosen by it would be chosen by the "
                "answer; name one that is learned from"
            )
    if learned <= set(select.domains):
        raise InvalidInput(f"select: {', '.join(select.domains)} are all there is to learn from; leave one of them out")
    return SelectionSources(
        replace(data, without_domains=(*data.without_domains, *select.domains)),
        replace(data, domains=select.domains, replay=None),
    )


@dataclass(frozen=True)
class Best:
    """The best step so far."""

    step: int
    precision: float
    weights: dict[str, Tensor]
    """The method's state, on rank 0; empty elsewhere."""


Embed = Callable[[Encoder], tuple[Split, Split]]
"""Gallery and queries as an encoder sees them."""


class StepSelection:
    """Looks at an engine's encoder every few steps and keeps the best one's weights, the earliest of equals."""

    def __init__(self, config: SelectionConfig, engine: AbstractEngine, embed: Embed | None, out: Path) -> None:
        assert embed is not None
        self._config, self._engine, self._embed = config, engine, embed
        self._rows = out / SELECTION
        self.best: Best | None = None

    def begin(self, encoder: Encoder, checkpoint: Path | None, step: int) -> None:
        """Look at the encoder before the first step, or go on from what `save` left in `checkpoint`, at `step`."""
        self._encoder = encoder
        if rank() == 0:  # alone: another would undo what this one has written since
            self._keep_rows(until=-1 if checkpoint is None else step)
        if checkpoint is None:
            self._look(0)
        elif (checkpoint / _FILE).is_file():
            self.best = _read_best(checkpoint / _FILE)

    def _keep_rows(self, *, until: int) -> None:
        rows = self._rows.read_text(encoding="utf-8").splitlines() if self._rows.is_file() else []
        kept = [row for row in rows if row.endswith("}") and json.loads(row)["step"] <= until]
        self._rows.write_text("".join(f"{row}\n" for row in kept), encoding="utf-8")

    def hook(self) -> Hook:
        """To be called before checkpoints are written. A call of all ranks."""

        def look(step: Step) -> None:
            if step.progress.step % self._config.every == 0 or step.last:
                self._look(step.progress.step)

        return look

    def save(self, folder: Path) -> None:
        """Into a checkpoint, on rank 0."""
        if self.best is not None and self.best.weights:
            facts = {"step": str(self.best.step), "precision": repr(self.best.precision)}
            weights = {name: value.contiguous() for name, value in self.best.weights.items()}
            save_file(weights, folder / _FILE, metadata=facts)

    def facts(self) -> dict[str, Any]:
        """What the encoder's lineage says of the choice."""
        assert self.best is not None
        precision = {f"precision{self._config.k}": self.best.precision}
        return {"domains": list(self._config.domains), "step": self.best.step, **precision}

    def _look(self, step: int) -> None:
        weights = self._engine.weights()  # a call of all ranks; rank 0 gets them
        if not weights:
            return
        gallery, queries = self._embed(trained_encoder(self._encoder.config, weights))
        measure = retrieval_precision(gallery, queries, k=self._config.k, exclude_group=True)
        if self.best is None or measure.value > self.best.precision:
            self.best = Best(step, measure.value, weights)
        row = {"step": step, measure.name: measure.value, "best_step": self.best.step}
        with self._rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def embed_images(train: ShardManifest, queries: ShardManifest, *, image_size: int, device: torch.device) -> Embed:
    """Gallery and queries by reading and encoding every image again."""

    def split(manifest: ShardManifest, encoder: Encoder) -> Split:
        vectors, rows = [], []
        for batch in read_images(manifest, range(len(manifest)), image_size=image_size, batch_size=256):
            vectors.append(encoder.encode(batch.images).invariant)
            rows += batch.rows
        return Split.of(torch.cat(vectors), manifest.label[rows], manifest.group[rows])

    def embed(encoder: Encoder) -> tuple[Split, Split]:
        encoder.to(device)
        return split(train, encoder), split(queries, encoder)

    return embed


def embed_features(train: tuple[ShardManifest, Tensor], queries: tuple[ShardManifest, Tensor]) -> Embed:
    """Gallery and queries by the adapter alone, from the features of the frozen backbone."""

    def split(manifest: ShardManifest, features: Tensor, encoder: Encoder) -> Split:
        with torch.no_grad():
            return Split.of(encoder(features)[:, encoder.parts["invariant"]], manifest.label, manifest.group)

    return lambda encoder: (split(*train, encoder), split(*queries, encoder))


def _read_best(path: Path) -> Best:
    with safe_open(path, framework="pt") as file:
        facts = file.metadata()
        # Copied: the checkpoint that they lie in may be removed.
        weights = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    return Best(int(facts["step"]), float(facts["precision"]), weights)
