"""Changing a bundle: images added, removed, cleared away. A change makes a new bundle in the place of the old."""

import dataclasses
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from viewfold.config import fingerprint
from viewfold.errors import InvalidInput
from viewfold.retrieval.features import RECORD_SCHEMA
from viewfold.retrieval.features_stream import VectorSource
from viewfold.retrieval.index.build import BuildSettings, make_bundle, sampled, score_histogram
from viewfold.retrieval.index.build_measure import Rows, StoredVectors, ask_exactly, latency_ms, measured_recall
from viewfold.retrieval.index.build_memory import PeakMemory
from viewfold.retrieval.index.build_records import PrincipalMap, base_order, key_order, spool
from viewfold.retrieval.index.build_vectors import VectorFile
from viewfold.retrieval.index.bundle import (
    AXES,
    BASE,
    BUNDLE_SCHEMA,
    DELETED,
    INDEX,
    INFO,
    RECORDS,
    VECTORS,
    BundleInfo,
    IndexBundle,
    ScoreHistogram,
    named,
)
from viewfold.retrieval.index.faiss_build import write_index
from viewfold.retrieval.index.faiss_index import CosineIndex, load_faiss
from viewfold.retrieval.index.files import changing, published, sha256_of, write_json
from viewfold.retrieval.index.lineage import check_lineage
from viewfold.retrieval.selection.calibration import FILE as CALIBRATION

_BLOCK_ROWS = 4096


def remove_images(folder: Path, keys: Sequence[str]) -> BundleInfo:
    """Mark the images `keys` as removed: no search returns them any more. `compact_bundle` clears them away.

    Raises:
        InvalidInput: a key that the bundle does not hold, or holds no more; or none would be left.
    """
    with _opened(folder) as bundle:
        return _without(bundle, keys)


def _without(bundle: IndexBundle, keys: Sequence[str]) -> BundleInfo:
    folder = bundle.folder
    alive, rows = bundle.alive.copy(), list[int]()
    for key, found in zip(keys, bundle.by_key.rows(keys), strict=True):
        held = found[alive[found]]
        if not held.size:
            raise InvalidInput(f"{key}: the index {folder} holds no such image; `viewfold index inspect` counts them")
        alive[held] = False
        rows.extend(held.tolist())
    if not rows or not alive.any():
        raise InvalidInput(f"{folder}: {len(rows)} of {int(bundle.alive.sum())} images named; an index cannot be empty")
    with _replaced(folder) as aside:
        kept = _linked(bundle, aside, without={DELETED})
        np.save(aside / DELETED, np.flatnonzero(~alive), allow_pickle=False)
        return _described(bundle, aside, [*kept, DELETED], f"remove {len(rows)}", num_deleted=int((~alive).sum()))


def add_images(folder: Path, features: VectorSource, *, base: VectorSource | None = None) -> BundleInfo:
    """Add the images of `features` behind those that the bundle holds, and measure it again.

    `base` holds the same images as the base encoder sees them, where the bundle has vectors of that encoder.

    Raises:
        ArtifactMismatch: another encoder, part or length of vectors than the bundle's; names both.
        InvalidInput: an image that the bundle holds already, or without a label beside images that have one; `base`
            missing or without effect.
    """
    with _opened(folder) as bundle:
        _check_lineage(bundle, features, base)
        return _with(bundle, features, base)


def _with(bundle: IndexBundle, features: VectorSource, base: VectorSource | None) -> BundleInfo:
    folder, records = bundle.folder, features.records
    order = key_order(records.column("key"))
    records = records.take(pa.array(order))
    held = bundle.records.column("key").filter(pa.array(bundle.alive))
    known = pc.is_in(records.column("key"), value_set=held.combine_chunks())
    if pc.any(known).as_py():
        first = records.column("key").filter(known)[0].as_py()
        raise InvalidInput(f"{first}: {folder} holds this image already; remove it first, or embed only what is new")
    unlabelled = records.column("label").is_null()
    if pc.any(unlabelled).as_py() and bundle.records.column("label").null_count < len(bundle):
        first = records.column("key").filter(unlabelled)[0].as_py()
        raise InvalidInput(f"{first}: has no label, and the images of {folder} have; label it or leave it out")
    peak = PeakMemory()
    with _replaced(folder) as aside:
        kept = _linked(bundle, aside, without={INDEX, RECORDS, VECTORS, BASE})
        new = spool(features, order, aside / "new.npy", block_rows=_BLOCK_ROWS)
        index = load_faiss().read_index(str(folder / INDEX))
        for _, block in new.blocks(_BLOCK_ROWS):
            index.add(block)
        write_index(index, aside / INDEX)
        del index
        places = PrincipalMap(np.load(folder / AXES), 0.0)
        _append_records(bundle, records, np.concatenate([places.places(b) for _, b in new.blocks(_BLOCK_ROWS)]), aside)
        names = [*kept, INDEX, RECORDS]
        if VECTORS in bundle.info.files:
            _append_vectors(folder / VECTORS, new, aside / VECTORS)
            names.append(VECTORS)
        if base is not None:
            spooled = spool(base, base_order(base, features), aside / "base.npy", block_rows=_BLOCK_ROWS)
            _append_vectors(folder / BASE, spooled, aside / BASE)
            spooled.path.unlink()
            names.append(BASE)
        new.path.unlink()
        alive = np.concatenate([bundle.alive, np.ones(len(order), dtype=bool)])
        facts = _measured(aside, names, alive, features.manifest_hash)
        facts["n"] = len(alive)
        if features.manifest_hash not in (bundle.info.manifest_hash, *bundle.info.added_manifests):
            facts["added_manifests"] = (*bundle.info.added_manifests, features.manifest_hash)
        return _described(bundle, aside, names, f"add {len(order)}", peak_memory_bytes=peak.read(), **facts)


def compact_bundle(folder: Path, *, factory: str | None = None, settings: BuildSettings | None = None) -> BundleInfo:
    """Build the bundle again from what it holds, without the removed images and in the order of keys.

    `factory` is another FAISS factory string, where what is left is too little to train the bundle's own.
    """
    with _opened(folder) as bundle:
        return _compacted(bundle, factory or bundle.info.factory, settings)


def _compacted(bundle: IndexBundle, factory: str, settings: BuildSettings | None) -> BundleInfo:
    folder = bundle.folder
    based_on = bundle.info.base_encoder_id
    base = _Kept(bundle, VectorFile.open(folder / BASE), based_on) if based_on is not None else None
    settings = settings or BuildSettings(recall_target=bundle.info.recall_target)
    card = next((folder / name for name in bundle.info.files if name.startswith("card.")), None)
    whole = folder.with_name(f"{folder.name}.compact")
    source = _Kept(bundle, bundle.exact(), bundle.info.encoder_id)
    make_bundle(
        source,
        whole,
        factory=factory,
        settings=settings,
        base=base,
        thumbnails=_thumbnails(bundle),
        card=card,
    )
    compacted = IndexBundle.open(whole)
    with _replaced(folder) as aside:
        names = _linked(compacted, aside, without=set())
        told = dataclasses.replace(compacted.info, parents=bundle.info.parents, id=bundle.info.id)
        told = dataclasses.replace(told, added_manifests=bundle.info.added_manifests)
        info = _described(dataclasses.replace(compacted, info=told), aside, names, "compact", build_s=told.build_s)
    shutil.rmtree(whole)
    return info


@dataclass(frozen=True, eq=False)
class _Kept:
    """The images of a bundle that were not removed, as something to build from."""

    bundle: IndexBundle
    vectors: Rows
    encoder_id: str

    def __len__(self) -> int:
        return int(self.bundle.alive.sum())

    @property
    def manifest_hash(self) -> str:
        return self.bundle.info.manifest_hash

    @property
    def part(self) -> str:
        return self.bundle.info.part

    @property
    def dim(self) -> int:
        return int(self.vectors.take(np.zeros(1, dtype=np.int64)).shape[1])

    @property
    def records(self) -> pa.Table:
        return self.bundle.records.select(RECORD_SCHEMA.names).filter(pa.array(self.bundle.alive))

    @property
    def mark(self) -> str:
        return fingerprint(self.bundle.info.id, self.encoder_id)

    @property
    def record_bytes(self) -> int:
        return int(self.bundle.records.nbytes)

    def blocks(self, num_rows: int) -> Iterator[NDArray[np.float32]]:
        for first, block in self.vectors.blocks(num_rows):
            yield block[self.bundle.alive[first : first + len(block)]]


@contextmanager
def _opened(folder: Path) -> Iterator[IndexBundle]:
    """The bundle, which no other process changes before the block ends."""
    with changing(folder):
        yield IndexBundle.open(folder)


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """What takes the bundle's place; its calibration stays, as the encoder does."""
    with published(folder, marker=INFO) as aside:
        yield aside
        if (folder / CALIBRATION).is_file():
            os.link(folder / CALIBRATION, aside / CALIBRATION)


def _check_lineage(bundle: IndexBundle, features: VectorSource, base: VectorSource | None) -> None:
    check_lineage(bundle, features)
    there, given = bundle.info.base_encoder_id, None if base is None else base.encoder_id
    if (there is None) != (given is None):
        raise InvalidInput(
            f"{bundle.folder}: has vectors of base encoder {there}; add the same images as it sees them with --base"
            if given is None
            else f"{bundle.folder}: has no vectors of a base encoder, so --base {given} has no effect; leave it out"
        )
    if base is not None:
        check_lineage(bundle, base, base=True)


def _linked(bundle: IndexBundle, aside: Path, *, without: set[str]) -> list[str]:
    """Put the files that do not change into the new folder as links: nothing is copied, and nobody writes to them."""
    names = [name for name in bundle.info.files if name not in without]
    for name in names:
        os.link(bundle.folder / name, aside / name)
    return names


def _described(bundle: IndexBundle, aside: Path, names: Sequence[str], change: str, **facts: Any) -> BundleInfo:
    changed = [name for name in names if not _same_file(bundle.folder / name, aside / name)]
    files = {name: bundle.info.files[name] for name in names if name not in changed} | sha256_of(aside, changed)
    info = dataclasses.replace(
        bundle.info,
        change=change,
        parents=(bundle.info.id, *bundle.info.parents),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        files=dict(sorted(files.items())),
        **facts,
    )
    write_json(aside / INFO, dataclasses.asdict(named(info)))
    return named(info)


def _same_file(one: Path, other: Path) -> bool:
    return one.is_file() and one.samefile(other)


def _append_records(bundle: IndexBundle, records: pa.Table, places: NDArray[np.float32], aside: Path) -> None:
    nothing = pa.nulls(records.num_rows, pa.int64())
    columns = [*records.select(RECORD_SCHEMA.names).columns, pa.array(places[:, 0]), pa.array(places[:, 1])]
    new = pa.table([*columns, nothing, nothing], schema=BUNDLE_SCHEMA)
    pq.write_table(pa.concat_tables([bundle.records, new]), aside / RECORDS)


def _append_vectors(old: Path, new: VectorFile, path: Path) -> None:
    before = VectorFile.open(old)
    whole = VectorFile.create(path, before.num_rows + new.num_rows, before.dim)
    for start, file in ((0, before), (before.num_rows, new)):
        for first, block in file.blocks(_BLOCK_ROWS):
            whole.put(np.arange(start + first, start + first + len(block)), block)


def _measured(aside: Path, names: Sequence[str], alive: NDArray[np.bool_], mark: str) -> dict[str, Any]:
    """Recall, latency and score histogram of a bundle that has changed, among what was not removed."""
    index = CosineIndex.read(aside / INDEX)
    vectors: Rows = VectorFile.open(aside / VECTORS) if VECTORS in names else StoredVectors(index)
    allowed = None if alive.all() else alive
    rows = np.flatnonzero(alive)[sampled(int(alive.sum()), mark)]
    asked = ask_exactly(vectors, vectors.take(rows), rows, alive=allowed, block_rows=_BLOCK_ROWS)
    facts: dict[str, Any] = {f"recall_at_{k}": measured_recall(index, vectors, asked, k) for k in (1, 10, 100)}
    counts = score_histogram(index, asked.queries, rows, aside / RECORDS, alive=allowed)
    return facts | {
        "latency_ms": latency_ms(index, asked.queries),
        "score_histogram": ScoreHistogram(low=-1.0, high=1.0, counts=counts),
        "bytes_per_vector": round((aside / INDEX).stat().st_size / len(alive), 2),
    }


def _thumbnails(bundle: IndexBundle) -> Iterator[tuple[str, bytes]]:
    for key, alive in zip(bundle.column("key"), bundle.alive, strict=True):
        data = bundle.thumbnail(key) if alive else None
        if data is not None:
            yield key, data
