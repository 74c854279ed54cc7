"""Feature sets: what one part of one encoder says about the images of one manifest, with what is known of each image.

Folder: `features.json` and Parquet files `features-00000.parquet` ... with the columns of `RECORD_SCHEMA` and `vector`.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from viewfold.config import Config, parse
from viewfold.errors import ArtifactMismatch, InvalidInput
from viewfold.retrieval.index.files import check_sha256, published, read_json, sha256_of, write_json

FORMAT = 1
INFO = "features.json"
RECORD_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        *(pa.field(name, pa.string()) for name in ("label", "domain", "group", "sha256", "phash", "shard")),
        pa.field("offset", pa.int64()),
        pa.field("size", pa.int64()),
    ]
)
"""What is known of one image: its identity, label, domain, group; the sha256 and perceptual hash of its file; the shard
that holds it, and there the offset and size of the file in bytes."""


def record_table(columns: Mapping[str, Sequence[Any]]) -> pa.Table:
    """A table of `RECORD_SCHEMA`, one row an image; None stands for what is not known."""
    return pa.Table.from_pydict(columns, schema=RECORD_SCHEMA)


@dataclass(frozen=True, kw_only=True)
class FeatureInfo(Config):
    """What `features.json` holds."""

    format: int
    encoder_id: str
    manifest_hash: str
    part: str
    dim: int
    n: int
    files: dict[str, str]
    """The sha256 of each Parquet file, in the order of rows."""


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Vectors of images, in memory, with their records and their lineage.

    >>> columns = {name: [None] for name in RECORD_SCHEMA.names} | {"key": ["a"], "label": ["cat"]}
    >>> features = vf.FeatureSet("e1", "m1", "invariant", record_table(columns), np.ones((1, 4), np.float32))
    >>> features.keys, features.dim
    (['a'], 4)
    """

    encoder_id: str
    manifest_hash: str
    part: str
    """The part of the encoder's output that the vectors are: invariant, equivariant or all."""
    records: pa.Table
    """`RECORD_SCHEMA`; row i describes vector i."""
    vectors: NDArray[np.float32]
    """`[row, dim]`, as the encoder gave them, not normalised."""

    def __len__(self) -> int:
        return int(self.records.num_rows)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.vectors.shape[1])

    @property
    def keys(self) -> list[str]:
        """The identity of each image."""
        return self.column("key")

    def column(self, name: str) -> list[Any]:
        """One column of the records as plain Python values; None where nothing is known."""
        values: list[Any] = self.records.column(name).to_pylist()
        return values

    @property
    def mark(self) -> str:
        """Changes when any row or vector does."""
        digest = hashlib.sha256(np.ascontiguousarray(self.vectors).data)
        for column in self.records.columns:
            digest.update(repr(column.to_pylist()).encode())
        return digest.hexdigest()[:16]

    @property
    def record_bytes(self) -> int:
        """What the records take in memory."""
        return int(self.records.nbytes)

    def blocks(self, num_rows: int) -> Iterator[NDArray[np.float32]]:
        """The vectors in order, at most `num_rows` at a time."""
        for start in range(0, len(self), num_rows):
            yield self.vectors[start : start + num_rows]

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> "FeatureSet":
        """The same set with these rows alone, in this order."""
        index = np.asarray(rows, dtype=np.int64)
        return dataclasses.replace(self, records=self.records.take(pa.array(index)), vectors=self.vectors[index])

    def save(self, folder: Path) -> None:
        """Write the set as `folder`, whole or not at all."""
        with published(folder, marker=INFO) as aside:
            writer = FeatureWriter(aside, encoder_id=self.encoder_id, manifest_hash=self.manifest_hash, part=self.part)
            with writer:
                writer.add(self.records, self.vectors)

    @classmethod
    def load(cls, folder: Path, *, encoder_id: str | None = None) -> "FeatureSet":
        """Read the set; with `encoder_id`, only if that encoder made it.

        Raises:
            InvalidInput: no feature set, or a damaged one.
            ArtifactMismatch: another format, or another encoder; names both.
        """
        info = read_feature_info(folder, encoder_id=encoder_id)
        check_sha256(folder, info.files)
        table = pa.concat_tables([pq.read_table(folder / name) for name in info.files])
        vectors = table.column("vector").combine_chunks().flatten().to_numpy().reshape(-1, info.dim)
        return cls(info.encoder_id, info.manifest_hash, info.part, table.drop_columns("vector"), vectors)


def read_feature_info(folder: Path, *, encoder_id: str | None = None) -> FeatureInfo:
    """What `features.json` says, its files not yet checked; with `encoder_id`, only if that encoder made them.

    Raises:
        InvalidInput: no feature set, or a damaged description.
        ArtifactMismatch: another format, or another encoder; names both.
    """
    path = folder / INFO
    info = parse(FeatureInfo, read_json(path, kind="feature set", version=FORMAT), where=str(path))
    if encoder_id not in (None, info.encoder_id):
        raise ArtifactMismatch(
            f"{folder}: features of encoder {info.encoder_id}, but encoder {encoder_id} is in use; embed again"
        )
    return info


class FeatureWriter:
    """Writes a feature set file by file while the images are being embedded; memory holds one file's rows.

    A context manager. The folder is a feature set from the moment `features.json` appears in it, at the end.
    """

    def __init__(
        self, folder: Path, *, encoder_id: str, manifest_hash: str, part: str, rows_per_file: int = 65536
    ) -> None:
        """Begins anew in `folder`: what an interrupted writer left there is removed."""
        self._folder = folder
        self._lineage = {"encoder_id": encoder_id, "manifest_hash": manifest_hash, "part": part}
        self._rows_per_file = rows_per_file
        self._waiting: list[pa.Table] = []
        self._names: list[str] = []
        self._rows = 0
        self._dim = 0
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in (folder / INFO, *folder.glob("features-*.parquet")):
            leftover.unlink(missing_ok=True)

    def add(self, records: pa.Table, vectors: NDArray[np.floating[Any]]) -> None:
        """Append images: `records` of `RECORD_SCHEMA` (see `record_table`), and `[row, dim]` vectors, kept as float32.

        Raises:
            InvalidInput: a vector holds nan or infinity, or has another length than those before; names the image.
        """
        if self._dim not in (0, vectors.shape[1]):
            raise InvalidInput(
                f"{records.column('key')[0]}: its vector has {vectors.shape[1]} numbers, those before {self._dim}; "
                "a feature set holds vectors of one encoder and part"
            )
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            key = records.column("key")[int(np.argmin(finite))]
            raise InvalidInput(f"{key}: the encoder's vector is not finite; check the encoder before embedding with it")
        self._dim = int(vectors.shape[1])
        flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).ravel())
        self._waiting.append(records.append_column("vector", pa.FixedSizeListArray.from_arrays(flat, self._dim)))
        self._rows += records.num_rows
        if sum(table.num_rows for table in self._waiting) >= self._rows_per_file:
            self._flush()

    def __enter__(self) -> "FeatureWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()

    def _flush(self) -> None:
        name = f"features-{len(self._names):05d}.parquet"
        pq.write_table(pa.concat_tables(self._waiting), self._folder / name)
        self._names.append(name)
        self._waiting = []

    def _finish(self) -> None:
        if self._rows == 0:
            raise InvalidInput(f"{self._folder}: no image was embedded, so there are no features to write")
        if self._waiting:
            self._flush()
        files = sha256_of(self._folder, self._names)
        info = FeatureInfo(format=FORMAT, **self._lineage, dim=self._dim, n=self._rows, files=files)
        write_json(self._folder / INFO, dataclasses.asdict(info))
