"""Damaged shards to clean ones: every sample that is whole, byte for byte, and a line for whatever is not."""

import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from viewfold.errors import InvalidInput
from viewfold.folders import whole_folder
from viewfold.pipeline.contents import sample_faults
from viewfold.pipeline.indexer import index_shards, refuse_same_names
from viewfold.pipeline.locations import shard_name
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.packing import refuse_used
from viewfold.pipeline.reader import open_shard
from viewfold.pipeline.shards import (
    Fault,
    Member,
    ShardContents,
    ShardSample,
    Stored,
    apart,
    image_fault,
    shard_contents,
)

LEFT_OUT_NAME, REPAIRED_NAME = "left-out.jsonl", "repaired.jsonl"


@dataclass(frozen=True)
class Repaired:
    """What a repair made of some shards."""

    manifest: ShardManifest
    left_out: list[Fault]
    """Samples that are not whole, damage to the shards, and files that belong to no sample."""
    mended: list[Fault]
    """Samples that were kept, and what is no longer wrong with them."""


def repair_shards(
    locations: Sequence[str],
    out: Path,
    *,
    shard_bytes: int | None = None,
    progress: Callable[[int], object] = lambda num_samples: None,
) -> Repaired:
    """Write clean shards of the same names into the folder `out`, and index them.

    They hold every sample that is whole, members byte for byte and next to each other, in the order of the shards. No
    guess is made: a sample that may have lost a member is left out, and so is a key under which different bytes lie.
    What was left out and what was mended is listed in `left-out.jsonl` and `repaired.jsonl`. With `shard_bytes`, what
    is larger is cut into shards `NAME-0000.tar ...`. The same input gives the same bytes. `out` appears whole or not
    at all. `progress` is called with 1 after each sample.

    Raises:
        InvalidInput: `out` is in use, two shards of one name, or no whole sample in any.
        ShardError: a shard cannot be opened.
    """
    refuse_used(out)
    refuse_same_names(locations)
    notes = _Notes()
    with whole_folder(out.absolute()) as part:
        paths: list[Path] = []
        for location in locations:
            name = shard_name(location)
            with (
                os.fdopen(open_shard(location, expected=None), "rb") as file,
                _Writer(part, name, shard_bytes) as clean,
            ):
                for members in _whole_samples(file, name, notes):
                    if members is not None:
                        clean.write(members)
                    progress(1)
            if not clean.paths:
                notes.left_out.append(Fault(name, "", 0, "no whole sample in it: no clean shard is written for it"))
            paths += clean.paths
        if not paths:
            first = notes.left_out[0].error()
            raise InvalidInput(f"no whole sample in {len(locations)} shards; the first problem: {first}")
        _list(part / LEFT_OUT_NAME, notes.left_out)
        _list(part / REPAIRED_NAME, notes.mended)
        index_shards(list(map(str, paths)), part)
    return Repaired(ShardManifest.load(out), notes.left_out, notes.mended)


@dataclass(frozen=True)
class _Notes:
    left_out: list[Fault] = field(default_factory=list)
    mended: list[Fault] = field(default_factory=list)


class _Writer:
    """Writes samples to `NAME.tar`, or to `NAME-0000.tar ...` where they are more than `shard_bytes`."""

    def __init__(self, folder: Path, name: str, shard_bytes: int | None) -> None:
        self._folder, self._name, self._shard_bytes = folder, name, shard_bytes
        self._tar: tarfile.TarFile | None = None
        self.paths: list[Path] = []
        """The shards written; final when the block has ended."""

    def write(self, members: Sequence[tuple[str, bytes]]) -> None:
        """One sample: names and bytes."""
        if self._tar is None or (self._shard_bytes is not None and self._tar.offset >= self._shard_bytes):
            self._next()
        assert self._tar is not None
        for name, data in members:
            info = tarfile.TarInfo(name)  # its time, owner and mode are always the same
            info.size = len(data)
            self._tar.addfile(info, BytesIO(data))

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._tar is not None:
            self._tar.close()
        if len(self.paths) == 1:
            self.paths[0] = self.paths[0].rename(self._free(f"{self._name}.tar"))

    def _next(self) -> None:
        if self._tar is not None:
            self._tar.close()
        self.paths.append(self._free(f"{self._name}-{len(self.paths):04d}.tar"))
        self._tar = tarfile.TarFile(self.paths[-1], "w", format=tarfile.PAX_FORMAT)

    def _free(self, name: str) -> Path:
        path = self._folder / name
        if path.exists():
            raise InvalidInput(f"{name} is the name of two of the clean shards; rename {self._name}.tar")
        return path


def _whole_samples(file: BinaryIO, shard: str, notes: _Notes) -> Iterator[list[tuple[str, bytes]] | None]:
    """Names and bytes of each sample's members; None for one that is left out."""
    contents = shard_contents(file, shard)
    notes.left_out.extend([*contents.faults, *contents.others])
    for key in contents.found_keys():
        yield _whole_sample(file, shard, key, contents, notes)


def _whole_sample(
    file: BinaryIO, shard: str, key: str, contents: ShardContents, notes: _Notes
) -> list[tuple[str, bytes]] | None:
    stored = contents.members.get(key, [])
    data = {one.member: os.pread(file.fileno(), one.member.size, one.member.offset) for one in stored}
    kept, doubles, fault = _without_doubles(shard, key, stored, data)
    sample = ShardSample(key, {one.extension: one.member for one in kept})
    fault = contents.incomplete.get(key) or fault or image_fault(shard, sample)
    fault = fault or next(sample_faults(shard, sample, data.__getitem__), None)
    if fault is not None:
        notes.left_out.append(fault)
        return None
    notes.mended.extend(doubles)
    if (astray := apart(stored)) is not None:
        notes.mended.append(Fault(shard, key, astray.member.offset, "its members lay apart; they are together now"))
    return [(one.name, data[one.member]) for one in sorted(kept, key=lambda one: one.extension)]


def _without_doubles(
    shard: str, key: str, stored: Sequence[Stored], data: dict[Member, bytes]
) -> tuple[list[Stored], list[Fault], Fault | None]:
    """Each member once, what is said of those that come again with the same bytes, and the first with others."""
    kept: dict[str, Stored] = {}
    doubles: list[Fault] = []
    for one in stored:
        first = kept.setdefault(one.extension, one)
        if first is one:
            continue
        again = f"the member .{one.extension} occurs twice, first at byte {first.member.offset}"
        if data[one.member] != data[first.member]:
            different = Fault(shard, key, one.member.offset, f"{again}, with different bytes: none is the right one")
            return list(kept.values()), doubles, different
        doubles.append(Fault(shard, key, one.member.offset, f"{again}, with the same bytes; it is there once now"))
    return list(kept.values()), doubles, None


def _list(path: Path, faults: Sequence[Fault]) -> None:
    if faults:
        lines = [json.dumps(asdict(fault)) + "\n" for fault in faults]
        path.write_text("".join(lines), encoding="utf-8")
