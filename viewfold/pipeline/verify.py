"""Read everything that a manifest names, once: what a training would otherwise find out in the middle of the night."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

import numpy as np

from viewfold.errors import ShardError
from viewfold.pipeline.contents import sample_faults
from viewfold.pipeline.indexer import file_sha256
from viewfold.pipeline.manifest import Shard, ShardManifest
from viewfold.pipeline.reader import open_shard
from viewfold.pipeline.shards import Fault, scan_shard


def verify(manifest: ShardManifest, *, progress: Callable[[int], object] = lambda num_samples: None) -> list[Fault]:
    """Check size and sha256 of every shard and scan it again, parse every JSON, decode every image.

    Finds all problems and raises none of them, shard by shard. What was left out when the shards were indexed is found
    again. `progress` is called with numbers of samples that add up to those of the manifest.
    """
    faults: list[Fault] = []
    shard_of = manifest.samples.shard(np.arange(len(manifest)))
    order = np.argsort(shard_of, kind="stable")
    bounds = np.searchsorted(shard_of[order], np.arange(len(manifest.shards) + 1))
    for shard, first, last in zip(manifest.shards, bounds, bounds[1:], strict=False):
        rows = order[first:last].tolist()
        try:
            with os.fdopen(open_shard(shard.location, expected=None), "rb") as file:
                faults += _changes(file, shard)
                faults += _contents(file, shard, manifest, rows, progress)
        except ShardError as error:
            faults.append(Fault(shard.name, "", 0, error.reason))
            progress(len(rows))
    return faults


def _changes(file: BinaryIO, shard: Shard) -> Iterator[Fault]:
    """Whether this is still the shard that was indexed."""
    size = os.fstat(file.fileno()).st_size
    if size != shard.bytes:
        reason = f"has {size} bytes where the manifest says {shard.bytes}; copy it again or index it again"
        yield Fault(shard.name, "", min(size, shard.bytes), reason)
    elif (found := file_sha256(file)) != shard.sha256:
        yield Fault(
            shard.name,
            "",
            0,
            f"its sha256 is {found[:16]}..., the manifest says {shard.sha256[:16]}...; copy it again or index it again",
        )


def _contents(
    file: BinaryIO, shard: Shard, manifest: ShardManifest, rows: Sequence[int], progress: Callable[[int], object]
) -> list[Fault]:
    """What is wrong in a shard, and whether the samples of these rows are where the manifest has them."""
    faults: list[Fault] = []
    left = {manifest.samples.key(row): row for row in rows}
    moved = []
    for sample in scan_shard(file, shard.name, faults=faults):
        row = left.pop(sample.key, None)
        faults += sample_faults(shard.name, sample, lambda member: os.pread(file.fileno(), member.size, member.offset))
        if row is not None:
            places = (sample.images(shard.name), sample.members.get("json"))
            moved += [] if places == (manifest.samples.images(row), manifest.samples.about(row)) else [sample.key]
            progress(1)
    named = {fault.key for fault in faults}
    lost = [key for key in left if key not in named]
    for keys, what in ((moved, "lie elsewhere than the manifest says"), (lost, "are gone since it was indexed")):
        if keys:
            reason = f"{len(keys)} of its samples {what}, {keys[0]} the first; index it again"
            faults.append(Fault(shard.name, "", 0, reason))
    progress(len(left))
    return faults
