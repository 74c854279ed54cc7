"""A run on disk: a configuration and the folder that its stages fill."""

import os
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from viewfold.jobs.data import DataConfig, source
from viewfold.jobs.evaluate import CARD, PAGE
from viewfold.jobs.registry import Registry
from viewfold.jobs.run_config import RunConfig
from viewfold.pipeline.executor import ray_session
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.stage import StageRecord


@dataclass(frozen=True)
class Run:
    """A configuration and the folder that its stages fill."""

    config: RunConfig
    folder: Path
    home: Path
    """Where runs and their registry lie."""
    resources: ExitStack
    """Closed when the run is over."""
    records: dict[str, StageRecord] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """How the run is called on the tracking server: its path below `home`."""
        return Path(os.path.relpath(self.folder, self.home)).as_posix()

    def manifest(self, stage: str = "data") -> Path:
        """Where a manifest of this run lies."""
        return self.folder / stage / "manifest.json"

    def sources(self, *, labelled: bool = False) -> DataConfig:
        """What may be learned from and retrieved: everything but the held-out domains."""
        data = self.config.data
        return DataConfig(
            shards=data.shards,
            domains=data.domains,
            without_domains=(*data.without_domains, *self.config.held_out),
            without_groups=data.without_groups,
            labelled=data.labelled or labelled,
        )

    @property
    def base(self) -> Path:
        """Where the first encoder lies, in `encoder`, and what it was before any training, in `untrained`."""
        return self.folder / ("start" if self.config.start else "pretrain")

    @property
    def encoder(self) -> Path:
        """The encoder that the run is about: the adapted one where there is one."""
        return (self.folder / "adapt" if self.config.adapt else self.base) / "encoder"

    def asked(self) -> ShardManifest | None:
        """What is held back and asked about: validation data, else held-out domains; None where all is shown."""
        config = self.config
        if config.validation is not None:
            return source(self.manifest("validation"), config.validation)
        if config.held_out:
            return source(self.manifest(), DataConfig(shards=config.data.shards, domains=config.held_out))
        return None

    def adapt_sources(self) -> DataConfig:
        """What `adapt` learns from: labelled samples alone where its method reads labels, and a share of old ones."""
        adapt = self.config.adapt
        sources = self.sources(labelled=adapt is not None and adapt.method.needs_labels)
        return replace(sources, replay=self.config.data.replay)

    @property
    def card(self) -> dict[str, Path]:
        """The files of the encoder's card, where the run measures it."""
        folder = self.folder / "evaluate"
        return {"card": folder / CARD, "card_page": folder / PAGE} if self.config.evaluate else {}

    def start_ray(self) -> None:
        """Have Ray from here to the end of the run: a run that finds all its stages finished never starts it."""
        self.resources.enter_context(ray_session())

    def registry(self) -> Registry:
        """Shared by all runs of `home`."""
        return Registry(self.home)
