"""A share of what was learned before, among what is new: a training that goes on forgets less."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from viewfold.config import Config, check_ranges
from viewfold.errors import InvalidInput
from viewfold.keyed import generator
from viewfold.pipeline.locations import is_remote
from viewfold.pipeline.manifest import ShardManifest

MOST = 0.95
"""Of the share: with all of the data old there is nothing to go on for."""


@dataclass(frozen=True, kw_only=True)
class ReplayConfig(Config):
    """Which shards were learned from before, and how much of a training they are to be."""

    shards: tuple[str, ...]
    """As for the data, of which they are a part."""
    share: float = 0.5
    """Of the samples that are learned from, in 0..0.95; the old ones are drawn, all new ones are kept. Fewer where
    there are not as many old ones."""
    at_least: int = 0
    """Samples to learn from: where few are new, more old ones are drawn than their share, up to this many in all."""
    nothing_new: Literal["refuse", "all"] = "refuse"
    """Where every sample that may be learned from lies in `shards`: `refuse` the training, or learn from `all`."""
    seed: int = 0
    """Of the draw."""

    def __post_init__(self) -> None:
        check_ranges(self, share=(0, MOST), at_least=(0, 10**12))
        if not self.shards:
            raise ValueError("shards must name those that were learned from before")


def replayed(manifest: ShardManifest, old_shards: Sequence[str], config: ReplayConfig) -> ShardManifest:
    """All samples of other shards, and of those at `old_shards` as many as make `config.share` of all.

    Raises:
        InvalidInput: no sample lies in another shard, so that nothing would be new, and `config` refuses that.
    """
    old_places = {_place(location) for location in old_shards}
    is_old_shard = np.array([_place(shard.location) in old_places for shard in manifest.shards])
    is_old = is_old_shard[manifest.samples.shard(np.arange(len(manifest)))]
    old, new = np.flatnonzero(is_old), np.flatnonzero(~is_old)
    if not len(new):
        if config.nothing_new == "all":
            return manifest
        raise InvalidInput("data.replay: every sample lies in the shards to replay; leave replay out, or name fewer")
    wanted = max(round(len(new) * config.share / (1 - config.share)), config.at_least - len(new))
    kept = generator("replay", config.seed).permutation(old)[:wanted]
    return manifest.take(np.sort(np.concatenate([new, kept])))


def _place(location: str) -> str:
    return location if is_remote(location) else str(Path(location).resolve())
