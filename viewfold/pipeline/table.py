"""The samples of a manifest as columns: one row each, numbers as flat arrays, names as text."""

import hashlib
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from viewfold.pipeline.shards import Member

SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("key", pa.string()),
        ("label", pa.string()),
        ("domain", pa.string()),
        ("group", pa.string()),
        ("image_offset", pa.list_(pa.int64())),
        ("image_size", pa.list_(pa.int64())),
        ("about_offset", pa.int64()),
        ("about_size", pa.int64()),
        ("num_latents", pa.int32()),
    ]
)
"""Columns of `samples.parquet`: `about_*` place the sample's JSON (size 0: none); `num_latents`: width of latents."""

_NAMES = ("key", "label", "domain", "group")


class SampleTable:
    """Read-only columns of `SCHEMA`; looking up one row costs about a microsecond."""

    def __init__(self, table: pa.Table) -> None:
        """`table` has the columns of `SCHEMA`."""
        self._table = table.combine_chunks()
        self.shard: NDArray[np.int64] = self._numbers("shard")
        self.num_latents: NDArray[np.int64] = self._numbers("num_latents")
        self._key = self._column("key")
        self._first: NDArray[np.int32] = self._column("image_offset").offsets.to_numpy()
        self._image_offset: NDArray[np.int64] = self._column("image_offset").values.to_numpy()
        self._image_size: NDArray[np.int64] = self._column("image_size").values.to_numpy()
        self._about_offset: NDArray[np.int64] = self._numbers("about_offset")
        self._about_size: NDArray[np.int64] = self._numbers("about_size")

    def __reduce__(self) -> tuple[type, tuple[pa.Table]]:
        """The arrays are views of the table; pickled as they are they would double it."""
        return type(self), (self._table,)

    def __len__(self) -> int:
        return len(self.shard)

    @staticmethod
    def read(data: bytes) -> "SampleTable":
        """The table that `to_parquet` wrote."""
        return SampleTable(pq.read_table(io.BytesIO(data), schema=SCHEMA))

    def to_parquet(self) -> bytes:
        """The table as a Parquet file."""
        buffer = io.BytesIO()
        pq.write_table(self._table, buffer, compression="zstd")
        return buffer.getvalue()

    def key(self, row: int) -> str:
        """Key of a sample within its shard."""
        return str(self._key[row].as_py())

    def image_counts(self) -> NDArray[np.int64]:
        """int64 `[sample]`: number of stored images."""
        return np.diff(self._first).astype(np.int64)

    def num_images(self, row: int) -> int:
        """Stored images of a sample."""
        return int(self._first[row + 1] - self._first[row])

    def images(self, row: int) -> list[Member]:
        """Places of a sample's stored images."""
        span = slice(self._first[row], self._first[row + 1])
        return [
            Member(*p) for p in zip(self._image_offset[span].tolist(), self._image_size[span].tolist(), strict=True)
        ]

    def about(self, row: int) -> Member | None:
        """Place of a sample's JSON."""
        size = int(self._about_size[row])
        return Member(int(self._about_offset[row]), size) if size else None

    def names(self, column: str) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Sorted vocabulary of `label`, `domain` or `group`, and each sample's index in it, -1 for none.

        Names that are all whole numbers are sorted as numbers, so that class `10` does not come before class `2`.
        """
        encoded = self._column(column).dictionary_encode()
        found: list[str] = encoded.dictionary.to_pylist()
        numeric = all(name.isdecimal() for name in found)
        order = sorted(range(len(found)), key=lambda i: (int(found[i]) if numeric else 0, found[i]))
        rank = np.empty(len(found) + 1, dtype=np.int64)
        rank[order], rank[-1] = np.arange(len(found)), -1  # index -1, a missing name, stays -1
        return tuple(found[i] for i in order), rank[encoded.indices.fill_null(-1).to_numpy()]

    def take(self, rows: NDArray[np.int64]) -> "SampleTable":
        """The given rows, in the given order."""
        return SampleTable(self._table.take(rows))

    def digest(self) -> str:
        """sha256 of the content, whatever wrote the file it came from."""
        sha = hashlib.sha256()
        for name in _NAMES:
            sha.update(json.dumps(self._column(name).to_pylist()).encode())
        places = (self._first, self._image_offset, self._image_size, self._about_offset, self._about_size)
        for array in (self.shard, self.num_latents, *places):
            sha.update(array.astype("<i8").tobytes())
        return sha.hexdigest()

    def _column(self, name: str) -> pa.Array:
        column = self._table[name]
        return column.chunk(0) if column.num_chunks else pa.array([], SCHEMA.field(name).type)

    def _numbers(self, name: str) -> NDArray[np.int64]:
        return self._column(name).to_numpy().astype(np.int64)  # type: ignore[no-any-return]
