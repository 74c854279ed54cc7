"""Building an index bundle from a feature set."""

import dataclasses
import io
import resource
import shutil
import sys
import tarfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from viewfold.errors import ArtifactMismatch, InvalidInput
from viewfold.keyed import generator
from viewfold.retrieval.bundle import (
    BASE,
    BUNDLE_SCHEMA,
    FORMAT,
    INDEX,
    INFO,
    RECORDS,
    THUMBNAILS,
    BundleInfo,
    IndexBundle,
    ScoreHistogram,
    bundle_id,
)
from viewfold.retrieval.faiss_index import METRIC, CosineIndex, unit_rows
from viewfold.retrieval.features import FeatureSet
from viewfold.retrieval.files import published, sha256_of, write_json
from viewfold.retrieval.lookup import RowsByValue

_SAMPLE = 200  # images that recall and the score histogram are measured on
_BINS = 200
_BLOCK = 16  # exact scores are held for this many queries at a time


def build_bundle(
    features: FeatureSet,
    out: Path,
    *,
    factory: str = "Flat",
    base: FeatureSet | None = None,
    thumbnails: Iterable[tuple[str, bytes]] = (),
    card: Path | None = None,
) -> IndexBundle:
    """Build the bundle `out`, whole or not at all, in the place of an older bundle if there is one, and open it.

    `factory` is any FAISS factory string. `base` holds the same images as the encoder before adaptation sees them.
    `thumbnails` are pairs of a key and a JPEG file, for some or all images. `card` is the encoder's card.

    Raises:
        InvalidInput: FAISS refuses the factory, a key stands twice, a vector has no direction, a thumbnail belongs to
            no image, `out` holds something else.
        ArtifactMismatch: `base` comes from another manifest or from other images.
    """
    with published(out, marker=INFO) as aside:
        write_bundle(features, aside, factory=factory, base=base, thumbnails=thumbnails, card=card)
    return IndexBundle.open(out, encoder_id=features.encoder_id)


def write_bundle(
    features: FeatureSet,
    folder: Path,
    *,
    factory: str = "Flat",
    base: FeatureSet | None = None,
    thumbnails: Iterable[tuple[str, bytes]] = (),
    card: Path | None = None,
) -> BundleInfo:
    """Write a bundle's files into an existing folder that the caller publishes; otherwise as `build_bundle`."""
    started = time.perf_counter()
    features = _in_key_order(features)
    vectors = unit_rows(features.vectors, features.keys)
    index = CosineIndex.build(vectors, factory)
    index.write(folder / INDEX)
    places, explained = principal_map(vectors)
    offsets, sizes = _write_thumbnails(folder / THUMBNAILS, features, thumbnails)
    extra = [places[:, 0], places[:, 1], offsets, sizes]
    records = pa.table([*features.records.columns, *(pa.array(column) for column in extra)], schema=BUNDLE_SCHEMA)
    pq.write_table(records, folder / RECORDS)
    names = [INDEX, RECORDS, THUMBNAILS]
    if base is not None:
        np.save(folder / BASE, _aligned(base, features), allow_pickle=False)
        names.append(BASE)
    if card is not None:
        names.append(f"card{card.suffix}")
        shutil.copyfile(card, folder / names[-1])
    files = sha256_of(folder, names)
    sample = _sample(len(features), features.manifest_hash)
    info = BundleInfo(
        format=FORMAT,
        id=bundle_id(features.encoder_id, features.manifest_hash, features.part, factory, files),
        encoder_id=features.encoder_id,
        manifest_hash=features.manifest_hash,
        part=features.part,
        base_encoder_id=None if base is None else base.encoder_id,
        factory=factory,
        metric=METRIC,
        dim=features.dim,
        n=len(features),
        recall_at_10=measured_recall(index, vectors, sample),
        score_histogram=_score_histogram(index, vectors, sample, features.records),
        map_explained=explained,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        build_s=round(time.perf_counter() - started, 3),
        peak_memory_bytes=_peak_memory_bytes(),
        files=files,
    )
    write_json(folder / INFO, dataclasses.asdict(info))
    return info


def measured_recall(index: CosineIndex, vectors: NDArray[np.float32], sample: NDArray[np.int64], k: int = 10) -> float:
    """Share of the exact `k` nearest rows that the index finds for the sampled rows, themselves among them.

    `vectors` are the `[row, dim]` unit vectors that the index was built from. A row that is as near as the exact k-th
    counts as found, so that copies of an image are no misses.
    """
    k = min(k, len(vectors))
    found = index.search(vectors[sample], k).rows
    hits = 0
    for start in range(0, len(sample), _BLOCK):
        block = slice(start, start + _BLOCK)
        exact = vectors[sample[block]] @ vectors.T
        kth = np.partition(exact, -k, axis=1)[:, -k]
        scores = np.where(found[block] >= 0, np.take_along_axis(exact, np.maximum(found[block], 0), 1), -np.inf)
        hits += int((scores >= kth[:, None] - 1e-6).sum())
    return hits / (len(sample) * k)


def principal_map(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Place `[row, 2]` along the two directions of largest variance, and the share of the variance that they hold.

    A direction points to where its largest coefficient is positive, so that the map is not mirrored between builds.
    """
    centred = vectors - vectors.mean(axis=0)
    variances, directions = np.linalg.eigh(centred.T.astype(np.float64) @ centred)
    axes = directions[:, :-3:-1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    places = np.zeros((len(vectors), 2), dtype=np.float32)
    places[:, : axes.shape[1]] = centred @ axes
    total = float(variances.sum())
    return places, float(variances[:-3:-1].sum()) / total if total > 0 else 1.0


def _in_key_order(features: FeatureSet) -> FeatureSet:
    ordered = features.take(np.argsort(np.array(features.keys, dtype=object), kind="stable"))
    for key, following in pairwise(ordered.keys):
        if key == following:
            raise InvalidInput(f"{key}: this key stands twice in the features; embed each image once")
    return ordered


def _aligned(base: FeatureSet, features: FeatureSet) -> NDArray[np.float32]:
    """Unit vectors of `base` in the order of `features`."""
    if base.manifest_hash != features.manifest_hash:
        raise ArtifactMismatch(
            f"base features of manifest {base.manifest_hash} beside features of manifest {features.manifest_hash}; "
            "embed the same images with both encoders"
        )
    base = _in_key_order(base)
    if base.keys != features.keys:
        raise ArtifactMismatch(
            f"encoder {base.encoder_id} embedded {len(base)} images and encoder {features.encoder_id} {len(features)}, "
            "not the same ones; embed the same images with both"
        )
    return unit_rows(base.vectors, base.keys)


def _write_thumbnails(
    path: Path, features: FeatureSet, thumbnails: Iterable[tuple[str, bytes]]
) -> tuple[list[int | None], list[int | None]]:
    """Write the tar as the pairs come; offset and size of each row's bytes in it, None for a row without thumbnail."""
    row_of = {key: row for row, key in enumerate(features.keys)}
    offsets: list[int | None] = [None] * len(features)
    sizes: list[int | None] = [None] * len(features)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for key, data in thumbnails:
            if key not in row_of:
                raise InvalidInput(f"{key}: a thumbnail for an image that has no vector; give those of the features")
            member = tarfile.TarInfo(f"{key}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            offsets[row_of[key]], sizes[row_of[key]] = tar.offset - padded, len(data)
    return offsets, sizes


def _sample(num_rows: int, manifest_hash: str) -> NDArray[np.int64]:
    rows = generator("bundle sample", manifest_hash).choice(num_rows, min(num_rows, _SAMPLE), replace=False)
    return np.sort(rows)


def _score_histogram(
    index: CosineIndex,
    vectors: NDArray[np.float32],
    sample: NDArray[np.int64],
    records: pa.Table,
) -> ScoreHistogram:
    groups = RowsByValue(records.column("group")).rows(records.column("group").take(pa.array(sample)).to_pylist())
    excluded = [np.union1d(rows, [row]) for rows, row in zip(groups, sample, strict=True)]
    nearest = index.search(vectors[sample], 1, excluded=excluded).scores
    counts, _ = np.histogram(nearest[np.isfinite(nearest)].clip(-1, 1), bins=_BINS, range=(-1, 1))
    return ScoreHistogram(low=-1.0, high=1.0, counts=counts.tolist())


def _peak_memory_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
