"""Feature sets that are read as they are used: the records at once, the vectors block by block, never all of them."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from viewfold.config import fingerprint
from viewfold.retrieval.features import FeatureInfo, read_feature_info
from viewfold.retrieval.index.files import check_sha256

_BUFFER = 1 << 20  # bytes of a file read ahead; without it a whole column of a file is read before its first row


class VectorSource(Protocol):
    """What a bundle is built from: records and lineage of images, and their vectors in the same order."""

    @property
    def encoder_id(self) -> str:
        """The encoder that made the vectors."""

    @property
    def manifest_hash(self) -> str:
        """The images that were embedded."""

    @property
    def part(self) -> str:
        """The part of the encoder's output that the vectors are."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    @property
    def records(self) -> pa.Table:
        """`RECORD_SCHEMA`."""

    @property
    def mark(self) -> str:
        """Changes when any row or vector does."""

    @property
    def record_bytes(self) -> int:
        """What the records take in memory, guessed without reading all of them."""

    def __len__(self) -> int: ...

    def blocks(self, num_rows: int) -> Iterator[NDArray[np.float32]]:
        """The vectors in order, at most `num_rows` at a time."""


@dataclass(frozen=True, eq=False)
class FeatureStream:
    """A feature set on disk; `FeatureSet.load` reads the same folder into memory."""

    folder: Path
    info: FeatureInfo
    kept: NDArray[np.bool_] | None = None
    """`[row of the folder]`: which images are in the set; None for all."""

    @classmethod
    def open(cls, folder: Path, *, encoder_id: str | None = None) -> "FeatureStream":
        """Open a feature set after holding its files against their sha256; raises as `FeatureSet.load`."""
        info = read_feature_info(folder, encoder_id=encoder_id)
        check_sha256(folder, info.files)
        return cls(folder, info)

    def where(self, kept: NDArray[np.bool_]) -> "FeatureStream":
        """The same set with these images alone; `kept` has an entry for each row of this one."""
        rows = np.ones(self.info.n, dtype=bool) if self.kept is None else self.kept.copy()
        rows[rows] = kept
        return dataclasses.replace(self, kept=rows)

    def __len__(self) -> int:
        return self.info.n if self.kept is None else int(self.kept.sum())

    @property
    def encoder_id(self) -> str:
        """The encoder that made the vectors."""
        return self.info.encoder_id

    @property
    def manifest_hash(self) -> str:
        """The images that were embedded."""
        return self.info.manifest_hash

    @property
    def part(self) -> str:
        """The part of the encoder's output that the vectors are."""
        return self.info.part

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.info.dim

    @property
    def mark(self) -> str:
        """Changes when any row or vector does."""
        return fingerprint(self.info.files, "" if self.kept is None else fingerprint(np.packbits(self.kept).tolist()))

    @property
    def records(self) -> pa.Table:
        """`RECORD_SCHEMA`, read from the files."""
        table = pa.concat_tables([self._records_of(name) for name in self.info.files])
        return table if self.kept is None else table.filter(pa.array(self.kept))

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of the records, read from the files without the others."""
        tables = [pq.read_table(self.folder / file, columns=[name]) for file in self.info.files]
        column = pa.concat_tables(tables).column(name)
        return column if self.kept is None else column.filter(pa.array(self.kept))

    @property
    def record_bytes(self) -> int:
        """What the records take in memory, by those of the first file."""
        first = self._records_of(next(iter(self.info.files)))
        return int(first.nbytes * self.info.n / first.num_rows)

    def blocks(self, num_rows: int) -> Iterator[NDArray[np.float32]]:
        """The vectors in order, at most `num_rows` at a time."""
        start = 0
        for name in self.info.files:
            with pq.ParquetFile(self.folder / name, buffer_size=_BUFFER) as file:
                for batch in file.iter_batches(num_rows, columns=["vector"], use_threads=False):
                    vectors = batch.column(0).flatten().to_numpy(zero_copy_only=False).reshape(-1, self.dim)
                    kept = slice(None) if self.kept is None else self.kept[start : start + len(vectors)]
                    start += len(vectors)
                    yield vectors[kept]

    def _records_of(self, name: str) -> pa.Table:
        with pq.ParquetFile(self.folder / name, buffer_size=_BUFFER) as file:
            return file.read(columns=[column for column in file.schema_arrow.names if column != "vector"])
