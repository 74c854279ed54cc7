"""The labelled shards that a card is made on: what heads are fitted on, and what is asked."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from viewfold.jobs.data import manifest_of
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.order.split import split_groups

ASKED_SHARE = 0.5
"""Of the samples, when heads are to be fitted on the rest of the same shards."""


@contextmanager
def evaluation_sets(
    shards: str | Sequence[str], train: str | Sequence[str], seed: int
) -> Iterator[tuple[ShardManifest, ShardManifest]]:
    """What heads are fitted on, and what is asked: the two halves of `shards` where `train` names none."""
    with tempfile.TemporaryDirectory(prefix="viewfold-") as folder:
        asked = manifest_of(shards, Path(folder) / "asked")
        if train:
            yield manifest_of(train, Path(folder) / "train"), asked
            return
        halves = split_groups(asked.group, names=asked.groups, key=asked.samples.key, share=ASKED_SHARE, seed=seed)
        yield asked.take(halves.pool), asked.take(halves.query)
