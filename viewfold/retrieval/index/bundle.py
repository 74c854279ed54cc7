"""Index bundles: an index with all that is needed to answer from it, checked as one, refused beside another encoder.

Folder: `bundle.json`, `index.faiss`, `records.parquet` (in ascending order of keys, images that were added later behind
the others; row i is vector i of the index), `thumbnails.tar`, `map_axes.npy`, where the index gives vectors back only
roughly `vectors.npy`, after a removal `deleted.npy`, and where they were given `base_vectors.npy` and `card.<suffix>`.
`build_bundle` makes one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from viewfold.config import Config, fingerprint, parse
from viewfold.errors import ArtifactMismatch, InvalidInput
from viewfold.retrieval.features import RECORD_SCHEMA
from viewfold.retrieval.index.build_measure import Rows, StoredVectors
from viewfold.retrieval.index.build_vectors import VectorFile
from viewfold.retrieval.index.faiss_index import CosineIndex
from viewfold.retrieval.index.files import check_sha256, read_json, steadily
from viewfold.retrieval.index.held_file import HeldFile
from viewfold.retrieval.index.lookup import RowsByValue
from viewfold.retrieval.index.vector_index import Hits, VectorIndex

FORMAT = 2
INFO, INDEX, RECORDS, THUMBNAILS = "bundle.json", "index.faiss", "records.parquet", "thumbnails.tar"
BASE, VECTORS, AXES, DELETED = "base_vectors.npy", "vectors.npy", "map_axes.npy", "deleted.npy"
BUNDLE_SCHEMA = pa.schema(
    [
        *RECORD_SCHEMA,
        pa.field("map_x", pa.float32()),
        pa.field("map_y", pa.float32()),
        pa.field("thumb_offset", pa.int64()),
        pa.field("thumb_size", pa.int64()),
    ]
)
"""`RECORD_SCHEMA`, the place on the two-dimensional map, and where the thumbnail's bytes lie in `thumbnails.tar`."""


@dataclass(frozen=True, kw_only=True)
class ScoreHistogram(Config):
    """How similar an image's nearest neighbour is, for a sample of the bundle's own images: the reference for drift."""

    low: float
    high: float
    counts: list[int]
    """Images per bin of equal width between `low` and `high`; the image itself and its group are left out."""


@dataclass(frozen=True, kw_only=True)
class BundleInfo(Config):
    """What `bundle.json` holds."""

    format: int
    id: str
    """Depends on the lineage and on every file, not on when or how fast it was built."""
    encoder_id: str
    manifest_hash: str
    part: str
    base_encoder_id: str | None
    """The encoder of `base_vectors.npy`, from before adaptation; None if the index's own vectors are that."""
    factory: str
    metric: str
    dim: int
    n: int
    num_deleted: int
    """Of the `n` rows, those that were removed and are no answer any more."""
    search: dict[str, float]
    """How far the index looks (`nprobe`, `efSearch`, `k_factor`), as it was tuned when it was built."""
    recall_target: float
    """The recall at 10 that it was tuned for."""
    recall_at_1: float
    recall_at_10: float
    recall_at_100: float
    """Share of the exact nearest that the index finds, for a sample of its own images, each left out of its own answer,
    ties forgiven."""
    latency_ms: float
    """Median of a search for ten images with one query, on the machine that built the bundle."""
    bytes_per_vector: float
    """Size of `index.faiss` for each vector."""
    score_histogram: ScoreHistogram
    map_explained: float
    """Share of the variance of the vectors that the two-dimensional map shows."""
    change: str
    """What made the bundle of the first of `parents`, or `build`."""
    parents: tuple[str, ...]
    """The bundles that this one came from, latest first."""
    added_manifests: tuple[str, ...]
    """Where images that were added later are from."""
    trained_rows: int
    """Vectors that the index was trained on."""
    created: str
    build_s: float
    memory_cap_bytes: int | None
    peak_memory_bytes: int
    """Largest resident size of any process of the build."""
    files: dict[str, str]
    """The sha256 of every other file of the folder."""


@dataclass(frozen=True, eq=False)
class BundleFiles:
    """The files of an opened bundle that are read row by row: held open, since a change puts others in their place."""

    alive: NDArray[np.bool_]
    thumbnails: HeldFile
    vectors: VectorFile | None
    base: NDArray[np.float32] | None

    @classmethod
    def open(cls, folder: Path, info: BundleInfo) -> "BundleFiles":
        """Open those that the bundle has."""
        alive = np.ones(info.n, dtype=bool)
        if DELETED in info.files:
            alive[np.load(folder / DELETED, allow_pickle=False)] = False
        return cls(
            alive,
            HeldFile(folder / THUMBNAILS),
            VectorFile.open(folder / VECTORS) if VECTORS in info.files else None,
            np.load(folder / BASE, mmap_mode="r", allow_pickle=False) if BASE in info.files else None,
        )


@dataclass(frozen=True, eq=False)
class IndexBundle:
    """An opened bundle. Rows are positions in `records` and in the index, in ascending order of keys.

    It stays what it was when it was opened, also while its folder is changed or built anew.

    >>> bundle = vf.IndexBundle.open("runs/mine/index/bundle")
    >>> len(bundle), bundle.info.part
    (24, 'invariant')
    """

    folder: Path
    info: BundleInfo
    records: pa.Table
    """`BUNDLE_SCHEMA`."""
    index: VectorIndex
    held: BundleFiles

    @classmethod
    def open(cls, folder: str | Path, *, encoder_id: str | None = None) -> "IndexBundle":
        """Open a bundle after holding every file against its sha256; with `encoder_id`, only if that encoder made it.

        All of it is of one bundle, also where another takes its place meanwhile.

        Raises:
            InvalidInput: there is no bundle, or a damaged one; names the file.
            ArtifactMismatch: another format, or another encoder; names both.
        """
        path = Path(folder)
        return steadily(path, lambda: cls._read(path, encoder_id))

    @classmethod
    def _read(cls, folder: Path, encoder_id: str | None) -> "IndexBundle":
        info = read_info(folder)
        if encoder_id not in (None, info.encoder_id):
            raise ArtifactMismatch(
                f"{folder}: this index was built with encoder {info.encoder_id}, but encoder {encoder_id} is to search "
                "it; embed and index the images again, or load the index's own encoder"
            )
        check_sha256(folder, info.files)
        held = BundleFiles.open(folder, info)
        return cls(folder, info, read_records(folder), CosineIndex.read(folder / INDEX), held)

    def __len__(self) -> int:
        return self.info.n

    @property
    def alive(self) -> NDArray[np.bool_]:
        """`[row]`: false for what was removed, which no search returns."""
        return self.held.alive

    def search(
        self,
        vectors: NDArray[np.floating[Any]],
        k: int,
        *,
        excluded: Sequence[NDArray[np.int64]] | None = None,
        allowed: NDArray[np.bool_] | None = None,
    ) -> Hits:
        """The `k` rows most similar to each of the `[query, dim]` vectors, none of them removed.

        `VectorIndex.search` says the rest.
        """
        return self.index.search(vectors, k, excluded=excluded, allowed=self.allowed(allowed))

    def allowed(self, mask: NDArray[np.bool_] | None = None) -> NDArray[np.bool_] | None:
        """`mask` without the rows that were removed; None where every row may be shown."""
        if not self.info.num_deleted:
            return mask
        return self.alive if mask is None else mask & self.alive

    def exact(self) -> Rows:
        """The unit vectors as they were given, from the index itself or, where it keeps them roughly, from a file."""
        return self.held.vectors or StoredVectors(self.index)

    def column(self, name: str) -> list[Any]:
        """One column of the records as plain Python values; None where nothing is known."""
        values: list[Any] = self.records.column(name).to_pylist()
        return values

    @cached_property
    def by_key(self) -> RowsByValue:
        """The row of each key."""
        return RowsByValue(self.records.column("key"))

    @cached_property
    def by_sha256(self) -> RowsByValue:
        """The rows that show the very same image file."""
        return RowsByValue(self.records.column("sha256"))

    @cached_property
    def by_group(self) -> RowsByValue:
        """The rows of one patient, slide, object."""
        return RowsByValue(self.records.column("group"))

    def base_vectors(self) -> NDArray[np.float32]:
        """Unit vectors `[row, dim]` of the encoder from before adaptation, memory-mapped.

        Raises:
            InvalidInput: the bundle was built without them, because its own encoder is the base.
        """
        if self.held.base is None:
            raise InvalidInput(f"{self.folder}: built without vectors of a base encoder; give `base` when building it")
        return self.held.base

    def thumbnail(self, key: str) -> bytes | None:
        """The JPEG file of the thumbnail of `key`; None if the image is not in the bundle or came without one."""
        (rows,) = self.by_key.rows([key])
        if not rows.size:
            return None
        row = int(rows[-1])  # an image that was removed and came back stands twice
        offset, size = (self.records.column(name)[row].as_py() for name in ("thumb_offset", "thumb_size"))
        if offset is None:
            return None
        return self.held.thumbnails.read(size, offset)


def read_records(folder: Path) -> pa.Table:
    """The records of a bundle, each column in one piece: of several, Arrow joins all to take a few rows."""
    return pq.read_table(folder / RECORDS).combine_chunks()


def read_info(folder: Path) -> BundleInfo:
    """What the `bundle.json` of a folder says, and nothing of the other files.

    Raises:
        InvalidInput: there is none, or a damaged one; names the file.
        ArtifactMismatch: another format.
    """
    path = folder / INFO
    info = parse(BundleInfo, read_json(path, kind="index bundle", version=FORMAT), where=str(path))
    if info.id != bundle_id(info):
        raise InvalidInput(f"{path}: damaged, its id {info.id} does not belong to what it lists; build it again")
    return info


def bundle_id(info: BundleInfo) -> str:
    """16 hex digits that name a bundle: the same lineage and the same bytes have the same name."""
    lineage = (info.encoder_id, info.manifest_hash, info.part, info.factory, info.parents, info.added_manifests)
    return fingerprint(*lineage, dict(info.files))


def named(info: BundleInfo) -> BundleInfo:
    """`info` with the id that belongs to it."""
    return replace(info, id=bundle_id(info))
