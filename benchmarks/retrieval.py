"""What selection adds to a bare FAISS search, and what building an index costs beside autofaiss.

Synthetic unit vectors around Gaussian centres, as features of classes lie, on one thread. Selection is asked with every
guard on, its batch of queries with all that the guards compare; the bare search is FAISS's own, of as many candidates,
on the same index, which finds at least 0.95 of the ten nearest. autofaiss runs in the peers' Python
(`benchmarks.peers`); without it its row is left out and the record says so. Bundles of a million take many minutes to
build: they stay in the folder that the environment variable BENCH_KEPT names, if there is one, for the next time.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from benchmarks.measure import Comparison, Label, Row, compare, compared, isolated, lower, run_suite, worst_case
from benchmarks.peers import left_out, peer_versions, python_with
from viewfold.retrieval import (
    RECORD_SCHEMA,
    BuildSettings,
    FeatureStream,
    FeatureWriter,
    IndexBundle,
    Query,
    SelectConfig,
    build_bundle,
    make_bundle,
    select,
)
from viewfold.retrieval.index.faiss_index import CosineIndex

TARGETS = {"selection_added_ms_per_query": 0.3, "build_vs_autofaiss": 1.0, "build_peak_rss_over_cap": 1.0}
K = 7
FETCH = max(10 * K, 64)
PEER = "autofaiss"
KEPT = "BENCH_KEPT"
_CASE = "10^6 vectors of 256, {factory}, recall at 10 of {recall_at_10}"
LABELS = {
    "selection_added_ms_per_query": Label(
        what="what selection with every guard adds to a query", case=_CASE, unit="ms", less=True
    ),
    "selection_overhead": Label(
        what="selection with every guard", beside="FAISS's own search of the same candidates", case=_CASE, less=True
    ),
    "build_vs_autofaiss": Label(
        what="an index of 250 000 vectors of 256, built and published under 2 GiB",
        beside="autofaiss, same factory and cap",
        case="{factory}",
    ),
    "build_peak_rss_over_cap": Label(
        what="peak memory of building that index", beside="its cap", case="{factory}", less=True
    ),
}

AUTOFAISS = """
import sys, time
from autofaiss import build_index
folder, out, factory, half, cap = sys.argv[1:]
start = time.perf_counter()
build_index(embeddings=folder, index_path=out + "/knn.index", index_infos_path=out + "/infos.json", index_key=factory,
            max_index_memory_usage=half, current_memory_available=cap, metric_type="ip", nb_cores=1, verbose=30)
print("seconds", time.perf_counter() - start)
"""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Sizes; smaller in tests."""

    rows: int = 10**6
    dim: int = 256
    centres: int = 20_000
    batch: int = 64
    factories: tuple[str, ...] = ("HNSW32", "IVF4096,Flat")
    build_rows: int = 250_000
    build_factory: str = "IVF1024,Flat"
    cap_bytes: int = 2 << 30


FULL = Scale()


def write_features(folder: Path, rows: int, scale: Scale, *, encoder_id: str) -> None:
    """A feature set of `rows` images, three to a group, written in parts so that memory holds one of them."""
    centres = np.random.default_rng(0).standard_normal((scale.centres, scale.dim), dtype=np.float32)
    with FeatureWriter(folder, encoder_id=encoder_id, manifest_hash="synthetic", part="invariant") as writer:
        for start in range(0, rows, 1 << 16):
            numbers = np.arange(start, min(rows, start + (1 << 16)))
            writer.add(_records(numbers, scale), around(centres, numbers % scale.centres, seed=start + 1))


def around(centres: NDArray[np.float32], which: NDArray[np.int64], *, seed: int) -> NDArray[np.float32]:
    """`[row, dim]`: a point near the centre of each number."""
    noise = np.random.default_rng(seed).standard_normal((len(which), centres.shape[1]), dtype=np.float32)
    return centres[which] + np.float32(0.7) * noise


def queries_of(scale: Scale) -> list[Query]:
    """New points near centres, with a group and hashes that some of the pool have."""
    centres = np.random.default_rng(0).standard_normal((scale.centres, scale.dim), dtype=np.float32)
    numbers = np.random.default_rng(1).integers(0, scale.rows, scale.batch)
    vectors = around(centres, numbers % scale.centres, seed=0)
    return [
        Query(f"{n:08d}", vector, _group(n), f"{n + 1:064x}", _phash(n + 2), vector)
        for n, vector in zip(numbers.tolist(), vectors, strict=True)
    ]


def selection_compared(factory: str, scale: Scale, repeats: int) -> tuple[Comparison, float]:
    """Selection beside the bare search in turns, seconds of a batch; and the recall at 10 of the index."""
    with tempfile.TemporaryDirectory() as scratch:
        bundle = kept_bundle(Path(os.environ.get(KEPT) or scratch), factory, scale)
    with threadpool_limits(1):
        queries, config = queries_of(scale), SelectConfig(k=K)
        vectors = np.stack([query.vector for query in queries])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        every = {"key", "sha256", "group", "phash", "duplicate"}
        assert all(set(demos.excluded) == every for demos in select(bundle, queries, config)), "a guard was off"
        assert isinstance(bundle.index, CosineIndex)
        bare = bundle.index.faiss_index
        measured = compare(
            lambda: select(bundle, queries, config), lambda: bare.search(vectors, FETCH), repeats=repeats
        )
        return measured, bundle.info.recall_at_10


def selection_rows(factory: str, scale: Scale, repeats: int) -> Iterator[Row]:
    """What a query costs beyond the search, and how often the search fits into all of it."""
    measured, recall = isolated(selection_compared, factory, scale, repeats)
    added = 1e3 * (np.array(measured.ours_s) - np.array(measured.peer_s)) / scale.batch
    picks = np.random.default_rng(0).integers(0, len(added), (4000, len(added)))
    low, high = np.quantile(np.median(added[picks], axis=1), [0.025, 0.975])
    target = TARGETS["selection_added_ms_per_query"]
    about = {"factory": factory, "rows": scale.rows, "dim": scale.dim, "batch": scale.batch, "k": K, "fetch": FETCH}
    facts = {**about, "recall_at_10": recall, "device": "cpu", "repeats": repeats}
    yield {
        "name": "selection_added_ms_per_query",
        **facts,
        "value": float(np.median(added)),
        "low": float(low),
        "high": float(high),
        "bare_ms_per_query": 1e3 * float(np.median(measured.peer_s)) / scale.batch,
        "target": target,
        "met": bool(np.median(added) <= target and recall >= 0.95),
    }
    value, low, high = Comparison(measured.peer_s, measured.ours_s).ratio()
    yield {"name": "selection_overhead", **facts, "value": value, "low": low, "high": high}


def our_build(features: Path, out: Path, scale: Scale) -> tuple[float, int]:
    """Seconds to a published bundle, and the largest resident size of any process of the build."""
    with threadpool_limits(1):
        start = time.perf_counter()
        settings = BuildSettings(memory_cap=scale.cap_bytes)
        info = make_bundle(FeatureStream.open(features), out, factory=scale.build_factory, settings=settings)
        return time.perf_counter() - start, info.peak_memory_bytes


def autofaiss_build(python: str, vectors: Path, out: Path, scale: Scale) -> float:
    """Seconds that autofaiss takes for the same vectors, in a process of its own, its imports not counted."""
    out.mkdir(parents=True, exist_ok=True)
    # The index may fill half: autofaiss wants room beside it, and without it says so and builds nothing.
    half, cap = (f"{part * scale.cap_bytes / (1 << 30):.3f}G" for part in (0.5, 1.0))
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [python, "-c", AUTOFAISS, str(vectors), str(out), scale.build_factory, half, cap]
    run = subprocess.run(command, env=one_thread, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert (out / "knn.index").is_file(), run.stderr[-2000:]
    return float(run.stdout.split("seconds")[-1])


def build_rows(scale: Scale, repeats: int, python: str | None) -> Iterator[Row]:
    """Our build under its cap, and beside autofaiss where there is one; the pairs are run in turns."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        isolated(_write_built, folder / "features", scale)
        isolated(_plain_vectors, folder / "features", folder / "npy")
        ours, peer = [], []
        for pair in range(repeats):
            sides: list[Callable[[], None]] = [
                lambda pair=pair: ours.append(isolated(our_build, folder / "features", folder / f"ours-{pair}", scale)),  # type: ignore[misc]
                lambda pair=pair: peer.append(
                    autofaiss_build(str(python), folder / "npy", folder / f"p-{pair}", scale)
                ),  # type: ignore[misc]
            ]
            for run in (sides if pair % 2 == 0 else sides[::-1]) if python else sides[:1]:
                run()
    facts = {"factory": scale.build_factory, "rows": scale.build_rows, "dim": scale.dim, "cap_bytes": scale.cap_bytes}
    if python:
        seconds = Comparison([seconds for seconds, _ in ours], peer)
        yield compared("build_vs_autofaiss", TARGETS["build_vs_autofaiss"], seconds, **facts)
    peak = max(peak for _, peak in ours)
    yield {
        "name": "build_peak_rss_over_cap",
        **facts,
        "value": peak / scale.cap_bytes,
        "seconds": float(np.median([seconds for seconds, _ in ours])),
        "target": TARGETS["build_peak_rss_over_cap"],
        "met": peak <= scale.cap_bytes,
    }


def rows(repeats: int, scale: Scale = FULL) -> Iterator[Row]:
    """All measurements, one by one; builds, which take minutes, are run a third as often."""
    for factory in scale.factories:
        yield from selection_rows(factory, scale, repeats)
    yield from build_rows(scale, max(1, repeats // 3), python_with(PEER))


def facts(measured: list[Row]) -> dict[str, Any]:
    """The worst case of each name, and what one must know to read the rows."""
    there = any(row["name"] == "build_vs_autofaiss" for row in measured)
    return {
        "peers": peer_versions(PEER),
        "worst_case": worst_case(measured, lower_is_better=lower(LABELS)),
        "notes": [
            f"k={K}, {FETCH} candidates; guards: key, sha256, group, perceptual hash, cosine in the base space",
            "selection_overhead: all of `select` over the bare search, so 1 is no overhead",
            "the build is all of `make_bundle`: records, recall, map and checks included",
            *([] if there else [left_out("build_vs_autofaiss", PEER)]),
        ],
    }


def kept_bundle(folder: Path, factory: str, scale: Scale) -> IndexBundle:
    """The bundle of a factory, with a base encoder's vectors: built on all cores unless it lies in `folder` already."""
    place = folder / f"{factory.replace(',', '-')}-{scale.rows}x{scale.dim}"
    return IndexBundle.open(place) if (place / "bundle.json").is_file() else _bundle(place, factory, scale)


def _bundle(place: Path, factory: str, scale: Scale) -> IndexBundle:
    with tempfile.TemporaryDirectory() as scratch:
        streams = {}
        for name in ("adapted", "base"):
            write_features(Path(scratch) / name, scale.rows, scale, encoder_id=name)
            streams[name] = FeatureStream.open(Path(scratch) / name)
        return build_bundle(streams["adapted"], place, factory=factory, base=streams["base"])


def _write_built(folder: Path, scale: Scale) -> None:
    write_features(folder, scale.build_rows, scale, encoder_id="built")


def _plain_vectors(features: Path, out: Path) -> None:
    """The unit vectors as the one `.npy` file that autofaiss reads."""
    out.mkdir()
    stream = FeatureStream.open(features)
    vectors = np.lib.format.open_memmap(
        out / "vectors.npy", mode="w+", dtype=np.float32, shape=(len(stream), stream.dim)
    )
    row = 0
    for block in stream.blocks(1 << 16):
        vectors[row : row + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)
        row += len(block)
    vectors.flush()


def _records(numbers: NDArray[np.int64], scale: Scale) -> pa.Table:
    each = numbers.tolist()
    columns: dict[str, list[Any]] = {
        "key": [f"{n:08d}" for n in each],
        "label": [f"class-{n % scale.centres % 1000:03d}" for n in each],
        "domain": [f"domain-{n % 5}" for n in each],
        "group": [_group(n) for n in each],
        "sha256": [f"{n:064x}" for n in each],
        "phash": [_phash(n) for n in each],
        "shard": ["images-000000"] * len(each),
        "offset": [4096 * n for n in each],
        "size": [4096] * len(each),
    }
    return pa.Table.from_pydict(columns, schema=RECORD_SCHEMA)


def _group(number: int) -> str:
    return f"group-{number // 3:07d}"


def _phash(number: int) -> str:
    return f"{(number * 0x9E3779B97F4A7C15) % 2**64:016x}"


if __name__ == "__main__":
    packages = ("faiss-cpu", "numpy")
    run_suite("retrieval", rows, about=__doc__, repeats=15, packages=packages, labels=LABELS, facts=facts)
