"""What a registered version was trained on and is asked about: read from the run folder that its tags name."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from viewfold.config import load
from viewfold.errors import InvalidInput
from viewfold.jobs.data import source
from viewfold.jobs.evaluate_config import EvaluateConfig
from viewfold.jobs.registry import VersionFacts
from viewfold.jobs.run_config import RunConfig
from viewfold.jobs.run_folder import Run
from viewfold.pipeline.manifest import ShardManifest


@dataclass(frozen=True)
class RunData:
    """The data of the run that made a version."""

    train: ShardManifest
    """Where heads are fitted and neighbours are found."""
    asked: ShardManifest | None
    """What its stage `evaluate` asks about; None where the run holds nothing back."""
    evaluate: EvaluateConfig
    """Settings of its measurements."""

    @classmethod
    def of(cls, version: VersionFacts, home: Path) -> "RunData":
        """The data of `version`.

        Raises:
            InvalidInput: it was not registered by a run, or the run folder is gone or damaged.
        """
        name = f"models:/{version.name}/{version.version}"
        if "run_folder" not in version.tags:
            raise InvalidInput(f"{name}: has no tag run_folder, so its data is not known; register it by a run")
        folder = Path(version.tags["run_folder"])
        if not (folder / "config.yaml").is_file():
            raise InvalidInput(f"{name}: its run folder {folder} is not there; bring it back, or run its recipe again")
        config = load(RunConfig, folder / "config.yaml")
        run = Run(config, folder, home, ExitStack())
        return cls(source(run.manifest(), run.sources()), run.asked(), config.evaluate or EvaluateConfig())


def unseen(asked: ShardManifest, train: ShardManifest) -> NDArray[np.int64]:
    """Rows of `asked` that are not in `train`; a sample is known by its shard's content and its key in there."""
    trained = set(_identities(train))
    return np.flatnonzero([identity not in trained for identity in _identities(asked)])


def _identities(manifest: ShardManifest) -> Iterator[tuple[str, str]]:
    for row in range(len(manifest)):
        yield manifest.shards[manifest.shard(row)].sha256, manifest.samples.key(row)
