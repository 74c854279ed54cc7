"""Shards to a manifest: every shard read once, every sample's members placed, whatever cannot be used set aside."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from viewfold.errors import InvalidInput
from viewfold.pipeline.about import About, parse_about
from viewfold.pipeline.contents import sample_faults
from viewfold.pipeline.locations import is_remote, shard_name
from viewfold.pipeline.manifest import FORMAT, MANIFEST_NAME, TABLE_NAME, Shard, ShardManifest
from viewfold.pipeline.quarantine import QUARANTINE_NAME, refuse_faults, write_quarantine
from viewfold.pipeline.reader import open_shard
from viewfold.pipeline.shards import Fault, Member, ShardSample, scan_shard
from viewfold.pipeline.stage import write_whole
from viewfold.pipeline.table import NAMES, SCHEMA, write_table


def index_shards(
    locations: Sequence[str | Path],
    out: Path,
    *,
    max_bad_share: float = 0.0,
    decode: bool = False,
    progress: Callable[[int], object] = lambda num_shards: None,
) -> ShardManifest:
    """Read every shard once and write `manifest.json` and `samples.arrow` into the folder `out`, whole or not at all.

    Samples that cannot be used are left out and listed in `out/quarantine.jsonl`, up to a share of `max_bad_share` of
    all; at 0 there may be none. With `decode`, images that cannot be decoded count among them. Paths are kept relative
    to `out` where the shards lie in it or below it, so such a folder can be moved. `progress` is called with 1 after
    each shard.

    Raises:
        ShardError: a shard cannot be read, or samples that cannot be used are more than allowed.
        InvalidInput: no shard, two of one name, or no sample in any.
    """
    named = [str(place) if is_remote(str(place)) else str(Path(place).absolute()) for place in locations]
    refuse_same_names(named)
    if out.exists() and not out.is_dir():
        raise InvalidInput(f"{out}: is a file; name a folder for the manifest")
    beside = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    with tempfile.TemporaryFile(dir=beside) as scratch:
        found = _Found()
        with pa.ipc.new_file(scratch, SCHEMA) as writer:
            for location in named:
                writer.write_batch(_scanned(location, found, decode=decode))
                progress(1)
        counts = {shard.name: shard.samples for shard in found.shards}
        refuse_faults(found.faults, found=counts, max_bad_share=max_bad_share)
        if not found.num_samples:
            raise InvalidInput(f"no sample in {len(named)} shards, the first of them {named[0]}")
        _write(found, pa.ipc.open_file(scratch), out)
    return ShardManifest.load(out)


@dataclass(eq=False)
class _Found:
    """What the shards so far hold."""

    shards: list[Shard] = field(default_factory=list)
    names: dict[str, dict[str, int]] = field(default_factory=lambda: {name: {} for name in NAMES})
    """Numbers of names in the order in which they were met."""
    faults: list[Fault] = field(default_factory=list)
    num_images: int = 0
    latents: set[int] = field(default_factory=set)
    content: Any = field(default_factory=lambda: hashlib.sha256(FORMAT.encode()))

    @property
    def num_samples(self) -> int:
        return sum(shard.samples for shard in self.shards)


def _scanned(location: str, found: _Found, *, decode: bool) -> pa.RecordBatch:
    """One shard's rows, in its order; names are numbered as they are met."""
    name = shard_name(location)
    with os.fdopen(open_shard(location, expected=None), "rb") as file:
        samples = scan_shard(file, name, faults=found.faults)
        rows = list(_rows(file, name, samples, found.faults, decode=decode))
        size, sha256 = os.fstat(file.fileno()).st_size, file_sha256(file)
    shard = Shard(name, location, len(rows), size, sha256)
    found.content.update(json.dumps([name, len(rows), size, sha256, rows]).encode())
    for row in rows:
        for column, numbers in found.names.items():
            row[column] = -1 if row[column] is None else numbers.setdefault(row[column], len(numbers))
    found.shards.append(shard)
    found.num_images += sum(len(row["image_offset"]) for row in rows)
    found.latents |= {row["num_latents"] for row in rows}
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def _rows(
    file: BinaryIO, shard: str, samples: Sequence[ShardSample], faults: list[Fault], *, decode: bool
) -> Iterator[dict[str, Any]]:
    def read(member: Member) -> bytes:
        return os.pread(file.fileno(), member.size, member.offset)

    for sample in samples:
        problems = list(sample_faults(shard, sample, read, decode=decode))
        faults += problems
        if problems:
            continue
        images = sample.images(shard)
        about = _about(sample, read, num_images=len(images))
        offset, size = sample.members.get("json", (0, 0))
        yield {
            "key": sample.key,
            "label": about.label,
            "domain": about.domain,
            "group": about.group,
            "image_offset": [image.offset for image in images],
            "image_size": [image.size for image in images],
            "about_offset": offset,
            "about_size": size,
            "num_latents": 0 if about.latents is None else about.latents.shape[1],
        }


def _about(sample: ShardSample, read: Callable[[Member], bytes], *, num_images: int) -> About:
    """What the JSON says; its label, where it has none, from a `.cls` or `.txt` member."""
    member = sample.members.get("json")
    about = parse_about(read(member), num_images=num_images) if member else About()
    label = sample.members.get("cls") or sample.members.get("txt")
    if about.label is None and label:
        about = replace(about, label=read(label).decode("utf-8").strip() or None)
    return about


def _write(found: _Found, scanned: Any, out: Path) -> None:
    """The rows again with names numbered in sorted order, then the manifest.

    The table goes first: a run killed between the two leaves a manifest that refuses it, never one that lies.
    """
    names, ranks = zip(*(_sorted(list(found.names[column])) for column in NAMES), strict=True)
    content_hash = found.content.hexdigest()
    parts = (_renumbered(scanned.get_batch(index), ranks) for index in range(scanned.num_record_batches))
    fields: dict[str, Any] = {
        "format": FORMAT,
        "hash": content_hash,
        "num_samples": found.num_samples,
        "num_images": found.num_images,
        "num_latents": next(iter(found.latents)) if len(found.latents) == 1 else 0,
        **{f"{column}s": list(sorted_names) for column, sorted_names in zip(NAMES, names, strict=True)},
        "shards": [{**asdict(shard), "location": _from(out.absolute(), shard.location)} for shard in found.shards],
    }
    write_whole(out / TABLE_NAME, lambda file: write_table(file, parts, content_hash))
    write_quarantine(out / QUARANTINE_NAME, found.faults)
    write_whole(out / MANIFEST_NAME, lambda file: file.write((json.dumps(fields, indent=1) + "\n").encode()))


def _sorted(names: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Sorted names, and the rank of each as it was given, with -1 last for no name.

    Names that are all whole numbers are sorted as numbers, so that class `10` does not come before class `2`.
    """
    numeric = all(name.isdecimal() for name in names)
    order = sorted(range(len(names)), key=lambda i: (int(names[i]) if numeric else 0, names[i]))
    rank = np.full(len(names) + 1, -1, dtype=np.int32)
    rank[order] = np.arange(len(names), dtype=np.int32)
    return tuple(names[i] for i in order), rank


def _renumbered(part: pa.RecordBatch, ranks: Sequence[NDArray[np.int32]]) -> pa.RecordBatch:
    for column, rank in zip(NAMES, ranks, strict=True):
        index = SCHEMA.get_field_index(column)
        part = part.set_column(index, SCHEMA.field(index), pa.array(rank[part[column].to_numpy()]))
    return part


def _from(folder: Path, location: str) -> str:
    """Relative to the folder where the shard lies in it or below it."""
    inside = not is_remote(location) and Path(location).is_relative_to(folder)
    return str(Path(location).relative_to(folder)) if inside else location


def refuse_same_names(locations: Sequence[str]) -> None:
    """Raise InvalidInput where two shards would give two samples one identity, or there is no shard."""
    first: dict[str, str] = {}
    for location in locations:
        if (other := first.setdefault(shard_name(location), location)) is not location:
            raise InvalidInput(
                f"{other} and {location} have one name, which would give two samples one identity; rename one"
            )
    if not locations:
        raise InvalidInput("no shard to index; give files, folders or patterns such as data-{000000..000005}.tar")


def file_sha256(file: BinaryIO) -> str:
    """64 hex digits of a whole file, read in pieces."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # any file opened "rb" will do
