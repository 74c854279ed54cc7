"""The samples of a manifest: one row each in an Arrow file that is mapped into memory, never loaded.

The file holds one record batch for each shard, so it is written shard by shard and opening it costs the same for a
thousand samples as for a thousand million. Its schema carries the hash of the manifest that it belongs to.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from viewfold.pipeline.shards import Member

NAMES = ("label", "domain", "group")
"""Columns of names: the table holds numbers, the manifest what they stand for."""

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        *((name, pa.int32()) for name in NAMES),
        ("image_offset", pa.list_(pa.int64())),
        ("image_size", pa.list_(pa.int64())),
        ("about_offset", pa.int64()),
        ("about_size", pa.int64()),
        ("num_latents", pa.int32()),
    ]
)
"""Columns of `samples.arrow`: `label`, `domain`, `group` index into the manifest's lists, -1 for none; `about_*` place
the sample's JSON (size 0: none); `num_latents` is the width of its latents."""

_HASH = b"manifest_hash"
_OPEN_PARTS = 1024  # shards whose columns are at hand; a part is some kB of pointers into the file

Numbers = NDArray[np.int64]


def write_table(file: BinaryIO, parts: Iterable[pa.RecordBatch], content_hash: str) -> None:
    """Write one batch for each shard, under the hash of the manifest."""
    schema = SCHEMA.with_metadata({_HASH: content_hash.encode()})
    with pa.ipc.new_file(file, schema) as writer:
        for part in parts:
            writer.write_batch(part)


def table_hash(path: Path) -> str | None:
    """The hash of the manifest that the table was written with; None where it is not such a table, or is cut short."""
    try:
        with pa.memory_map(str(path)) as file:
            schema = pa.ipc.open_file(file).schema
    except (pa.ArrowInvalid, OSError):
        return None
    found = (schema.metadata or {}).get(_HASH)
    return found.decode() if found and schema.equals(SCHEMA) else None


class Entry(NamedTuple):
    """One row."""

    shard: int
    key: str
    """Within the shard."""
    images: list[Member]
    about: Member | None
    """The sample's JSON."""
    names: tuple[int, ...]
    """Its numbers in the columns of `NAMES`."""


@dataclass(frozen=True)
class _Part:
    """The columns of one shard, as views of the mapped file."""

    key: pa.StringArray
    numbers: dict[str, NDArray[np.int32] | Numbers]
    first: NDArray[np.int32]
    image_offset: Numbers
    image_size: Numbers


class SampleTable:
    """Read-only rows of `SCHEMA`: all of a file, or some of them in an order. Looking up one costs microseconds.

    Holds nothing that grows with the samples; 8 bytes for each of the rows where they are some.
    """

    def __init__(self, path: Path, sizes: Sequence[int], rows: Numbers | None = None) -> None:
        """`sizes` are the samples of each shard; `rows` those that this table has, all where it is None."""
        self._path = path
        self._sizes = tuple(sizes)
        self._chosen = rows
        self._starts = np.concatenate([[0], np.cumsum(np.asarray(self._sizes, dtype=np.int64))])
        self._firsts: list[int] = self._starts.tolist()  # bisect is ten times as fast as searchsorted of one number
        self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self._part = lru_cache(maxsize=_OPEN_PARTS)(self._open_part)

    def __reduce__(self) -> tuple[type, tuple[Path, tuple[int, ...], Numbers | None]]:
        """Another process maps the same file."""
        return type(self), (self._path, self._sizes, self._chosen)

    def __len__(self) -> int:
        return int(self._starts[-1]) if self._chosen is None else len(self._chosen)

    def entry(self, row: int) -> Entry:
        """All of one row: a few microseconds."""
        shard, part, within = self._find(row)
        span = slice(int(part.first[within]), int(part.first[within + 1]))
        places = zip(part.image_offset[span].tolist(), part.image_size[span].tolist(), strict=True)
        return Entry(
            shard=shard,
            key=str(part.key[within].as_py()),
            images=[Member(offset, size) for offset, size in places],
            about=_about(part, within),
            names=tuple(int(part.numbers[name][within]) for name in NAMES),
        )

    def key(self, row: int) -> str:
        """Key of a sample within its shard."""
        _, part, within = self._find(row)
        return str(part.key[within].as_py())

    def shard(self, rows: Numbers) -> Numbers:
        """Which shard each of these rows lies in."""
        return np.searchsorted(self._starts, self._stored(rows), side="right") - 1

    def numbers(self, column: str, rows: Numbers) -> Numbers:
        """A column of whole numbers (those of `NAMES`, `num_latents`) at these rows."""
        stored = self._stored(rows)
        shards = np.searchsorted(self._starts, stored, side="right") - 1
        found = np.empty(len(stored), dtype=np.int64)
        for shard in np.unique(shards).tolist():
            here = shards == shard
            found[here] = self._part(shard).numbers[column][stored[here] - self._starts[shard]]
        return found

    def num_images(self, row: int) -> int:
        """Stored images of a sample."""
        _, part, within = self._find(row)
        return int(part.first[within + 1] - part.first[within])

    def images(self, row: int) -> list[Member]:
        """Places of a sample's stored images."""
        return self.entry(row).images

    def about(self, row: int) -> Member | None:
        """Place of a sample's JSON."""
        return self.entry(row).about

    def image_counts(self) -> Numbers:
        """int64 `[sample]`: number of stored images."""
        return self._column(lambda part: np.diff(part.first))

    def column(self, name: str) -> Numbers:
        """int64 `[sample]`: a whole column of numbers, loaded."""
        return self._column(lambda part: part.numbers[name])

    def present(self, name: str) -> Numbers:
        """Which numbers a column has, ascending, found shard by shard."""
        if self._chosen is not None:
            return np.unique(self.numbers(name, np.arange(len(self))))
        found = [np.unique(self._part(shard).numbers[name]) for shard in range(len(self._sizes))]
        return np.unique(np.concatenate(found)).astype(np.int64)

    def fewer_images(self, least: int) -> Numbers:
        """Rows with fewer stored images than that."""
        if self._chosen is not None:
            return np.flatnonzero(self.image_counts() < least)
        parts = (
            np.flatnonzero(np.diff(self._part(shard).first) < least) + start
            for shard, start in enumerate(self._starts[:-1].tolist())
        )
        return np.concatenate([np.zeros(0, dtype=np.int64), *parts])

    def take(self, rows: Numbers) -> "SampleTable":
        """The given rows, in the given order."""
        return SampleTable(self._path, self._sizes, self._stored(np.asarray(rows, dtype=np.int64)))

    def _column(self, of: Callable[[_Part], NDArray[np.int32] | Numbers]) -> Numbers:
        parts: Iterator[Numbers] = (of(self._part(shard)).astype(np.int64) for shard in range(len(self._sizes)))
        whole = np.concatenate([np.zeros(0, dtype=np.int64), *parts])
        return whole if self._chosen is None else whole[self._chosen]

    def _stored(self, rows: Numbers) -> Numbers:
        return rows if self._chosen is None else self._chosen[rows]

    def _find(self, row: int) -> tuple[int, _Part, int]:
        stored = row if self._chosen is None else int(self._chosen[row])
        if not 0 <= stored < self._firsts[-1]:
            raise IndexError(f"row {row} of {len(self)}")
        shard = bisect_right(self._firsts, stored) - 1
        return shard, self._part(shard), stored - self._firsts[shard]

    def _open_part(self, shard: int) -> _Part:
        batch = self._reader.get_batch(shard)
        offsets, sizes = batch["image_offset"], batch["image_size"]
        flat = [name for name in SCHEMA.names if pa.types.is_integer(SCHEMA.field(name).type)]
        return _Part(
            key=batch["key"],
            numbers={name: _view(batch[name]) for name in flat},
            first=_view(offsets.offsets),
            image_offset=_view(offsets.values),
            image_size=_view(sizes.values),
        )


def _about(part: _Part, within: int) -> Member | None:
    size = int(part.numbers["about_size"][within])
    return Member(int(part.numbers["about_offset"][within]), size) if size else None


def _view(column: pa.Array) -> NDArray[Any]:
    """Whole numbers without nulls where they lie; Arrow's own `to_numpy` imports pandas, 0.3 s in every process."""
    dtype = np.dtype(f"i{column.type.bit_width // 8}")
    data = column.buffers()[1]
    return (
        np.zeros(0, dtype) if data is None else np.frombuffer(data, dtype)[column.offset : column.offset + len(column)]
    )
