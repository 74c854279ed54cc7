"""The rows of a bundle: images in ascending order of keys, their places on a map, their thumbnails."""

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from viewfold.errors import ArtifactMismatch, InvalidInput
from viewfold.keyed import generator
from viewfold.retrieval.features_stream import VectorSource
from viewfold.retrieval.index.build_vectors import VectorFile
from viewfold.retrieval.index.vector_index import unit_rows

_MAP_ROWS = 16384  # vectors that the directions of the map are found from


def key_order(keys: pa.ChunkedArray) -> NDArray[np.int64]:
    """The rows in ascending order of their keys.

    Raises:
        InvalidInput: a key stands twice.
    """
    order: NDArray[np.int64] = pc.array_sort_indices(keys.combine_chunks()).to_numpy().astype(np.int64)
    ordered = keys.take(pa.array(order)).combine_chunks()
    twice = pc.equal(ordered[:-1], ordered[1:]).to_numpy(zero_copy_only=False)
    if twice.any():
        raise InvalidInput(
            f"{ordered[int(np.argmax(twice))].as_py()}: this key stands twice in the features; embed each image once"
        )
    return order


def base_order(base: VectorSource, features: VectorSource) -> NDArray[np.int64]:
    """`key_order` of `base`.

    Raises:
        ArtifactMismatch: `base` comes from another manifest or from other images than `features`; names both.
    """
    if base.manifest_hash != features.manifest_hash:
        raise ArtifactMismatch(
            f"base features of manifest {base.manifest_hash} beside features of manifest {features.manifest_hash}; "
            "embed the same images with both encoders"
        )
    keys, others = base.records.column("key"), features.records.column("key")
    order = key_order(keys)
    if not keys.take(pa.array(order)).equals(others.take(pa.array(key_order(others)))):
        raise ArtifactMismatch(
            f"encoder {base.encoder_id} embedded {len(base)} images and encoder {features.encoder_id} {len(features)}, "
            "not the same ones; embed the same images with both"
        )
    return order


def spool(source: VectorSource, order: NDArray[np.int64], path: Path, *, block_rows: int) -> VectorFile:
    """Write the unit vectors of `source` in this order, a block at a time.

    Raises:
        InvalidInput: a vector has no direction; names the image.
    """
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    file, first = VectorFile.create(path, len(order), source.dim), 0
    for block in source.blocks(block_rows):
        lengths = np.linalg.norm(block, axis=1)
        usable = np.isfinite(lengths) & (lengths > 0)
        if not usable.all():
            bad = int(np.argmin(usable))
            unit_rows(block[bad : bad + 1], [source.records.column("key")[first + bad].as_py()])
        file.put(rank[first : first + len(block)], block / lengths[:, None])
        first += len(block)
    return file


@dataclass(frozen=True, eq=False)
class PrincipalMap:
    """The plane of largest variance."""

    axes: NDArray[np.float32]
    """`[3, dim]`: the middle of all vectors, and the two directions."""
    explained: float
    """Share of the variance that the plane holds."""

    def places(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Where `[row, dim]` vectors lie in the plane, `[row, 2]`."""
        placed: NDArray[np.float32] = (vectors - self.axes[0]) @ self.axes[1:].T
        return placed


def principal_map(vectors: NDArray[np.float32]) -> PrincipalMap:
    """The plane for `[row, dim]` vectors. A direction points to where its largest coefficient is positive, so that the
    map is not mirrored between builds; where there is one direction only, the other is zero."""
    mean = vectors.mean(axis=0)
    centred = vectors - mean
    variances, directions = np.linalg.eigh(centred.T.astype(np.float64) @ centred)
    axes = directions[:, :-3:-1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    held = np.zeros((3, vectors.shape[1]), dtype=np.float32)
    held[0], held[1 : 1 + axes.shape[1]] = mean, axes.T
    total = float(variances.sum())
    return PrincipalMap(held, float(variances[:-3:-1].sum()) / total if total > 0 else 1.0)


def mapped(vectors: VectorFile, mark: str, *, block_rows: int) -> tuple[PrincipalMap, NDArray[np.float32]]:
    """The plane, found from at most 16384 vectors, and the places `[row, 2]` of all."""
    most = min(vectors.num_rows, min(_MAP_ROWS, block_rows))
    rows = np.sort(generator("bundle map", mark).choice(vectors.num_rows, most, replace=False))
    plane = principal_map(vectors.take(rows))
    return plane, np.concatenate([plane.places(block) for _, block in vectors.blocks(block_rows)])


def write_thumbnails(
    path: Path, keys: pa.ChunkedArray, thumbnails: Iterable[tuple[str, bytes]]
) -> tuple[pa.Array, pa.Array]:
    """Write the tar as the pairs come; offset and size of each row's bytes in it, null for a row without thumbnail."""
    row_of: dict[str, int] = {}
    places = np.full((2, len(keys)), -1, dtype=np.int64)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for key, data in thumbnails:
            row_of = row_of or {key: row for row, key in enumerate(keys.to_pylist())}
            if key not in row_of:
                raise InvalidInput(f"{key}: a thumbnail for an image that has no vector; give those of the features")
            member = tarfile.TarInfo(f"{key}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            places[:, row_of[key]] = tar.offset - padded, len(data)
    without = places[0] < 0
    return pa.array(places[0], mask=without), pa.array(places[1], mask=without)
