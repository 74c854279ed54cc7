"""Building an index bundle from features: under a memory cap, in steps that a killed build need not repeat."""

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterable
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
from viewfold.keyed import generator
from viewfold.retrieval.features_stream import VectorSource
from viewfold.retrieval.index.build_measure import StoredVectors, ask_exactly, latency_ms, measured_recall, tune
from viewfold.retrieval.index.build_memory import (
    MemoryPlan,
    PeakMemory,
    index_budget,
    peak_bytes,
    plan_memory,
    release_memory,
    resident_bytes,
)
from viewfold.retrieval.index.build_records import base_order, key_order, mapped, spool, write_thumbnails
from viewfold.retrieval.index.build_vectors import VectorFile
from viewfold.retrieval.index.build_work import Work, working
from viewfold.retrieval.index.bundle import (
    AXES,
    BASE,
    BUNDLE_SCHEMA,
    FORMAT,
    INDEX,
    INFO,
    RECORDS,
    THUMBNAILS,
    VECTORS,
    BundleInfo,
    IndexBundle,
    ScoreHistogram,
    named,
)
from viewfold.retrieval.index.factory import choose_factory
from viewfold.retrieval.index.faiss_build import (
    ParallelMap,
    ShardTask,
    fill_in_sequence,
    fill_shard,
    index_bytes,
    lists_of,
    merge_shards,
    new_index,
    train_index,
    write_index,
)
from viewfold.retrieval.index.faiss_index import METRIC, CosineIndex, load_faiss, num_centroids, refusal
from viewfold.retrieval.index.files import sha256_of, write_json
from viewfold.retrieval.index.lookup import RowsByValue

AUTO = "auto"
_SAMPLE = 200  # images that recall, latency and the score histogram are measured on
_BINS = 200


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """How an index is built, beside its factory."""

    recall_target: float = 0.95
    """Share of the exact ten nearest that a search is to find: picks the factory where none is given, and how far the
    index looks."""
    memory_cap: int | None = None
    """Bytes that no process of the build may exceed; None for no limit."""
    parallel: ParallelMap = map
    """Runs the tasks that fill shards of inverted lists."""

    def __post_init__(self) -> None:
        if not 0 < self.recall_target <= 1:
            raise InvalidInput(f"recall target {self.recall_target}: must lie in 0..1, and above 0")


def build_bundle(
    features: VectorSource,
    out: str | Path,
    *,
    factory: str = AUTO,
    settings: BuildSettings | None = None,
    base: VectorSource | None = None,
    thumbnails: Iterable[tuple[str, bytes]] = (),
    card: str | Path | None = None,
) -> IndexBundle:
    """As `make_bundle`, and open the bundle.

    >>> encoder = vf.load_encoder("runs/mine/pretrain/encoder")
    >>> bundle = vf.build_bundle(vf.embed_shards(encoder, "shards"), "bundle")
    >>> len(bundle), bundle.info.encoder_id == encoder.id
    (24, True)
    """
    settings, out, card = settings or BuildSettings(), Path(out), None if card is None else Path(card)
    make_bundle(features, out, factory=factory, settings=settings, base=base, thumbnails=thumbnails, card=card)
    return IndexBundle.open(out, encoder_id=features.encoder_id)


def make_bundle(
    features: VectorSource,
    out: Path,
    *,
    factory: str,
    settings: BuildSettings,
    base: VectorSource | None = None,
    thumbnails: Iterable[tuple[str, bytes]] = (),
    card: Path | None = None,
) -> BundleInfo:
    """Build the bundle `out`, whole or not at all, in the place of an older bundle if there is one.

    `factory` is any FAISS factory string, or `auto` for the one of `choose_factory`. `base` holds the same images as
    the encoder before adaptation sees them. `thumbnails` are pairs of a key and a JPEG file, for some or all images.
    `card` is the encoder's card. A build that was killed goes on with the steps and shards that it had finished, which
    lie in `<out>.build`.

    Raises:
        InvalidInput: the memory cap cannot be kept, FAISS refuses the factory, a key stands twice, a vector has no
            direction, a thumbnail belongs to no image, `out` holds something else or is being built.
        ArtifactMismatch: `base` comes from another manifest or from other images.
    """
    load_faiss()  # its code is resident from here on, as the plan must know
    mark = fingerprint(
        [FORMAT, features.mark, features.encoder_id, features.manifest_hash, features.part, factory],
        [base and [base.mark, base.encoder_id], settings.recall_target, settings.memory_cap, str(card)],
    )
    with working(out, mark, marker=INFO) as work:
        plan = _planned(work, features, factory, settings)
        build = _Build(work, features, base, settings, plan[0], plan[1])
        return build.run(thumbnails, card)


def _planned(work: Work, features: VectorSource, factory: str, settings: BuildSettings) -> tuple[str, MemoryPlan]:
    def plan() -> dict[str, Any]:
        cap, process, chosen = settings.memory_cap, resident_bytes(), factory
        size = len(features), features.dim
        if factory == AUTO:
            room = float("inf") if cap is None else index_budget(*size, process=process, cap=cap)
            chosen = choose_factory(*size, index_bytes=room, recall_target=settings.recall_target)
        index = new_index(chosen, features.dim)
        reckoned = plan_memory(
            *size,
            index_bytes=index_bytes(index, len(features)),
            centroids=None if index.is_trained else num_centroids(index),
            record_bytes=features.record_bytes,
            process=process,
            cap=cap,
        )
        if cap is not None:
            reckoned.require(cap, chosen)
        return {"factory": chosen, "memory": dataclasses.asdict(reckoned)}

    planned = work.once("plan", plan)
    return planned["factory"], MemoryPlan(**planned["memory"])


@dataclass(frozen=True)
class _Build:
    """The steps of one build; each is done once, whatever process does it."""

    work: Work
    features: VectorSource
    base: VectorSource | None
    settings: BuildSettings
    factory: str
    plan: MemoryPlan

    @property
    def mark(self) -> str:
        return self.features.manifest_hash

    @property
    def vectors(self) -> VectorFile:
        return VectorFile.open(self.work.bundle / VECTORS)

    def run(self, thumbnails: Iterable[tuple[str, bytes]], card: Path | None) -> BundleInfo:
        began, peak = time.perf_counter(), PeakMemory()
        written = self._step("vectors", self._write_vectors)
        placed = self._step("records", lambda: self._write_records(thumbnails))
        trained = self._step("trained", self._train)
        filled = self._step("filled", self._fill)
        measured = self._step("measured", self._measure)
        peaks = [step.pop("peak") for step in (written, placed, trained, filled, measured)]
        names = [INDEX, RECORDS, THUMBNAILS, AXES]
        if measured.pop("lossless"):
            (self.work.bundle / VECTORS).unlink(missing_ok=True)
        else:
            names.append(VECTORS)
        names += [BASE] if self.base is not None else []
        if card is not None:
            names.append(f"card{card.suffix}")
            shutil.copyfile(card, self.work.bundle / names[-1])
        info = self._info(names, placed | measured | {"search": filled["search"]})
        info = dataclasses.replace(
            info,
            trained_rows=trained["rows"],
            build_s=round(time.perf_counter() - began, 3),
            peak_memory_bytes=max(peak.read(), *peaks),
        )
        write_json(self.work.bundle / INFO, dataclasses.asdict(info))
        return info

    def _step(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `make` answers, and `peak`, the bytes held at most until then; kept for a build that goes on later."""

        def made() -> dict[str, Any]:
            facts = make()
            return facts | {"peak": max(peak_bytes(), facts.get("peak", 0))}

        done = self.work.once(name, made)
        release_memory()
        return done

    def _write_vectors(self) -> dict[str, Any]:
        """Unit vectors in ascending order of keys, and the records in that order."""
        records = self.features.records
        order = key_order(records.column("key"))
        pq.write_table(records.take(pa.array(order)), self.work.folder / RECORDS)
        del records
        release_memory()
        rows = self.plan.block_rows
        spool(self.features, order, self.work.bundle / VECTORS, block_rows=rows)
        if self.base is not None:
            spool(self.base, base_order(self.base, self.features), self.work.bundle / BASE, block_rows=rows)
        return {}

    def _write_records(self, thumbnails: Iterable[tuple[str, bytes]]) -> dict[str, Any]:
        plane, places = mapped(self.vectors, self.mark, block_rows=self.plan.block_rows)
        np.save(self.work.bundle / AXES, plane.axes, allow_pickle=False)
        known = pq.read_table(self.work.folder / RECORDS)
        thumbs = write_thumbnails(self.work.bundle / THUMBNAILS, known.column("key"), thumbnails)
        extra = [pa.array(places[:, 0]), pa.array(places[:, 1]), *thumbs]
        pq.write_table(pa.table([*known.columns, *extra], schema=BUNDLE_SCHEMA), self.work.bundle / RECORDS)
        return {"map_explained": plane.explained}

    def _train(self) -> dict[str, Any]:
        index = new_index(self.factory, self.features.dim)
        num_rows = len(self.features)
        rows = generator("index training", self.mark).choice(
            num_rows, min(num_rows, max(1, self.plan.sample_rows)), replace=False
        )
        train_index(index, self.factory, self.vectors.take(np.sort(rows)))
        write_index(index, self.work.folder / "trained.faiss")
        return {"rows": self.plan.sample_rows}

    def _fill(self) -> dict[str, Any]:
        """Fill and tune the index, and write it."""
        path, folder = self.work.folder / "trained.faiss", self.work.folder
        index, peak = load_faiss().read_index(str(path)), 0
        try:
            if lists_of(index) is None:
                index = fill_in_sequence(
                    index, self.vectors, block_rows=self.plan.block_rows, snapshot=folder / "snapshot.faiss"
                )
            else:
                tasks = self._tasks(path)
                peak = max(self.settings.parallel(fill_shard, tasks))
                index = merge_shards(path, [task.out for task in tasks])
        except RuntimeError as error:
            raise InvalidInput(f"factory {self.factory!r}: FAISS refuses it ({refusal(error)}); try another") from None
        asked = self._asked()
        found = tune(index, self.vectors, asked, self.settings.recall_target)
        write_index(index, self.work.bundle / INDEX)
        return {"peak": peak, "search": found}

    def _tasks(self, trained: Path) -> list[ShardTask]:
        step, total = self.plan.shard_rows, len(self.features)
        starts = range(0, total, step)
        return [
            ShardTask(
                trained.resolve(),
                self.vectors.path.resolve(),
                first,
                min(first + step, total),
                self.plan.block_rows,
                (self.work.folder / f"shard-{number:05d}.faiss").resolve(),
            )
            for number, first in enumerate(starts)
        ]

    def _asked(self) -> Any:
        rows = sampled(len(self.features), self.mark)
        vectors = self.vectors
        return ask_exactly(vectors, vectors.take(rows), rows, alive=None, block_rows=self.plan.block_rows)

    def _measure(self) -> dict[str, Any]:
        index, vectors, asked = CosineIndex.read(self.work.bundle / INDEX), self.vectors, self._asked()
        kept = StoredVectors(index).take(asked.rows)
        recalls = {f"recall_at_{k}": measured_recall(index, vectors, asked, k) for k in (1, 10, 100)}
        return recalls | {
            "lossless": bool(np.array_equal(kept, asked.queries)),
            "latency_ms": latency_ms(index, asked.queries),
            "histogram": score_histogram(index, asked.queries, asked.rows, self.work.bundle / RECORDS),
        }

    def _info(self, names: list[str], facts: dict[str, Any]) -> BundleInfo:
        features = self.features
        histogram = ScoreHistogram(low=-1.0, high=1.0, counts=facts.pop("histogram"))
        return named(
            BundleInfo(
                format=FORMAT,
                id="",
                encoder_id=features.encoder_id,
                manifest_hash=features.manifest_hash,
                part=features.part,
                base_encoder_id=None if self.base is None else self.base.encoder_id,
                factory=self.factory,
                metric=METRIC,
                dim=features.dim,
                n=len(features),
                num_deleted=0,
                recall_target=self.settings.recall_target,
                bytes_per_vector=round((self.work.bundle / INDEX).stat().st_size / len(features), 2),
                score_histogram=histogram,
                change="build",
                parents=(),
                added_manifests=(),
                trained_rows=0,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                build_s=0.0,
                memory_cap_bytes=self.settings.memory_cap,
                peak_memory_bytes=0,
                files=sha256_of(self.work.bundle, names),
                **facts,
            )
        )


def sampled(num_rows: int, mark: str) -> NDArray[np.int64]:
    """The rows that a bundle is measured on: at most 200, the same ones for the same images."""
    return np.sort(generator("bundle sample", mark).choice(num_rows, min(num_rows, _SAMPLE), replace=False))


def score_histogram(
    index: CosineIndex,
    queries: NDArray[np.float32],
    rows: NDArray[np.int64],
    records: Path,
    *,
    alive: NDArray[np.bool_] | None = None,
) -> list[int]:
    """Images of the sample by the cosine of their nearest neighbour outside of their own group, in 200 bins."""
    column = pq.read_table(records, columns=["group"]).column("group")
    groups = column.take(pa.array(rows))
    near = np.flatnonzero(pc.is_in(column, value_set=groups.drop_null()).to_numpy())
    members = RowsByValue(column.take(pa.array(near))).rows(groups.to_pylist())
    excluded = [np.union1d(near[found], [row]) for found, row in zip(members, rows, strict=True)]
    nearest = index.search(queries, 1, excluded=excluded, allowed=alive).scores
    counts, _ = np.histogram(nearest[np.isfinite(nearest)].clip(-1, 1), bins=_BINS, range=(-1, 1))
    held: list[int] = counts.tolist()
    return held
