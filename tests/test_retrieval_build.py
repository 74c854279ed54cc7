"""Building under a memory cap: in parts, after a kill, and to the same answers as in one piece."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pools import pool
from servers import wait_until

from viewfold.errors import InvalidInput
from viewfold.retrieval import BuildSettings, FeatureSet, FeatureStream, IndexBundle, build_bundle, make_bundle
from viewfold.retrieval.index.build_memory import resident_bytes
from viewfold.retrieval.index.build_vectors import VectorFile
from viewfold.retrieval.index.faiss_build import (
    ShardTask,
    fill_in_sequence,
    fill_shard,
    merge_shards,
    new_index,
    train_index,
    write_index,
)
from viewfold.retrieval.index.faiss_index import CosineIndex
from viewfold.retrieval.index.files import changing
from viewfold.retrieval.index.vector_index import unit_rows

ROOT = Path(__file__).resolve().parents[1]


def features(num_rows: int = 900, dim: int = 8) -> FeatureSet:
    return pool(np.random.default_rng(0).normal(size=(num_rows, dim)).astype(np.float32))


def on_disk(set_: FeatureSet, folder: Path) -> FeatureStream:
    set_.save(folder)
    return FeatureStream.open(folder)


def vector_file(folder: Path, vectors: NDArray[np.float32]) -> VectorFile:
    file = VectorFile.create(folder / "vectors.npy", *vectors.shape)
    file.put(np.arange(len(vectors)), vectors)
    return file


def test_a_streamed_set_and_one_in_memory_make_the_same_bundle(tmp_path: Path) -> None:
    shuffled = features().take(np.random.default_rng(1).permutation(900))
    streamed = build_bundle(on_disk(shuffled, tmp_path / "features"), tmp_path / "a")
    assert streamed.info.id == build_bundle(features(), tmp_path / "b").info.id
    assert not list(tmp_path.glob("*.build"))


def test_a_part_of_a_streamed_set_is_that_part(tmp_path: Path) -> None:
    kept = np.arange(900) % 3 > 0
    part = on_disk(features(), tmp_path / "features").where(kept)
    assert part.records.column("key").to_pylist() == features().take(np.flatnonzero(kept)).keys
    np.testing.assert_array_equal(np.concatenate(list(part.blocks(64))), features().vectors[kept])
    again = part.where(np.arange(600) < 7)
    assert (len(again), again.records.num_rows, len(np.concatenate(list(again.blocks(64))))) == (7, 7, 7)
    assert len({part.mark, again.mark, FeatureStream.open(tmp_path / "features").mark}) == 3


@pytest.mark.parametrize("factory", ["IVF8,Flat", "IVF8,PQ4x4,Refine(SQ8)", "PCA4,IVF8,Flat", "IVF8,SQ8"])
def test_shards_that_are_merged_answer_as_an_index_filled_in_one_piece(factory: str, tmp_path: Path) -> None:
    vectors = unit_rows(features().vectors, [""] * 900)
    file, whole = vector_file(tmp_path, vectors), new_index(factory, 8)
    train_index(whole, factory, vectors)
    write_index(whole, tmp_path / "trained.faiss")
    paths = [tmp_path / f"{start}.faiss" for start in (0, 400, 800)]
    for start, path in zip((0, 400, 800), paths, strict=True):
        fill_shard(ShardTask(tmp_path / "trained.faiss", file.path, start, min(start + 400, 900), 64, path))
    merged = CosineIndex(merge_shards(tmp_path / "trained.faiss", paths))
    whole.add(vectors)
    expected, found = (index.search(vectors[:50], 5) for index in (CosineIndex(whole), merged))
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_a_graph_goes_on_from_its_snapshot(tmp_path: Path) -> None:
    vectors = unit_rows(features().vectors, [""] * 900)
    begun = new_index("HNSW8", 8)
    begun.add(vectors[:500])
    write_index(begun, tmp_path / "snapshot.faiss")
    whole = fill_in_sequence(
        new_index("HNSW8", 8), vector_file(tmp_path, vectors), block_rows=64, snapshot=tmp_path / "snapshot.faiss"
    )
    assert whole.ntotal == 900
    np.testing.assert_array_equal(whole.reconstruct_n(0, 900), vectors)


@pytest.mark.parametrize(("factory", "knob"), [("IVF16,Flat", "nprobe"), ("HNSW8", "efSearch")])
def test_an_index_is_tuned_to_the_recall_and_keeps_how(factory: str, knob: str, tmp_path: Path) -> None:
    low, high = (
        build_bundle(features(), tmp_path / str(target), factory=factory, settings=BuildSettings(recall_target=target))
        for target in (0.3, 0.99)
    )
    assert low.info.search[knob] <= high.info.search[knob]
    assert high.info.recall_at_10 >= 0.99
    assert low.info.recall_at_10 >= 0.3
    assert set(high.info.search) == {knob}


def test_exact_vectors_are_kept_only_where_the_index_gives_them_back_roughly(tmp_path: Path) -> None:
    expected = unit_rows(features().vectors, [""] * 900)
    for factory, kept in (("IVF8,Flat", False), ("IVF8,SQ8", True)):
        bundle = build_bundle(features(), tmp_path / "bundle", factory=factory)
        assert ("vectors.npy" in bundle.info.files) is kept
        np.testing.assert_array_equal(bundle.exact().take(np.array([5, 3, 3])), expected[[5, 3, 3]])


def test_a_cap_that_cannot_be_kept_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    settings = BuildSettings(memory_cap=1 << 20)
    with pytest.raises(InvalidInput, match=r"memory cap 1 MiB: IVF8,Flat needs [\d.]+ [MG]iB"):
        make_bundle(features(), tmp_path / "bundle", factory="IVF8,Flat", settings=settings)
    assert not list(tmp_path.iterdir())


def test_a_build_that_failed_for_another_reason_goes_on_and_other_settings_begin_anew(tmp_path: Path) -> None:
    def broken(fn: object, tasks: object) -> object:
        raise OSError("cable out")

    settings = BuildSettings(parallel=broken)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="cable out"):
        make_bundle(features(), tmp_path / "bundle", factory="IVF8,Flat", settings=settings)
    trained = tmp_path / "bundle.build" / "trained.faiss"
    stamp = trained.stat().st_mtime_ns
    with pytest.raises(OSError, match="cable out"):
        make_bundle(features(), tmp_path / "bundle", factory="IVF8,Flat", settings=settings)
    assert trained.stat().st_mtime_ns == stamp
    resumed = build_bundle(features(), tmp_path / "bundle", factory="IVF8,Flat")
    assert resumed.info.id == build_bundle(features(), tmp_path / "fresh", factory="IVF8,Flat").info.id
    with pytest.raises(OSError, match="cable out"):
        make_bundle(features(), tmp_path / "bundle", factory="IVF8,Flat", settings=settings)
    assert build_bundle(features(), tmp_path / "bundle", factory="Flat").info.factory == "Flat"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "fresh"]


class Heavy(FeatureSet):
    """Vectors that take 800 MB while they are read, more than a process may have given back meanwhile."""

    def blocks(self, num_rows: int) -> Iterator[NDArray[np.float32]]:
        held = np.ones(100_000_000)
        yield from super().blocks(num_rows)
        del held


@pytest.mark.slow
def test_the_peak_of_an_early_step_is_recorded_by_the_process_that_ends_a_killed_build_too(tmp_path: Path) -> None:
    light = features()
    heavy = Heavy(light.encoder_id, light.manifest_hash, light.part, light.records, light.vectors)
    least = resident_bytes() + (150 << 20)
    assert build_bundle(heavy, tmp_path / "heavy", factory="IVF8,Flat").info.peak_memory_bytes > least

    def broken(fn: object, tasks: object) -> object:
        raise OSError("cable out")

    settings = BuildSettings(parallel=broken)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="cable out"):
        make_bundle(heavy, tmp_path / "cut", factory="IVF8,Flat", settings=settings)
    assert build_bundle(light, tmp_path / "cut", factory="IVF8,Flat").info.peak_memory_bytes > least


@pytest.mark.parametrize("factory", ["SQ8", "HNSW8_SQ8", "PCA6,Flat"])
def test_what_has_no_codebook_is_trained_on_all_the_same(factory: str, tmp_path: Path) -> None:
    info = build_bundle(features(), tmp_path / "bundle", factory=factory).info
    assert info.trained_rows == 900
    assert info.recall_at_10 > 0.4


@pytest.mark.parametrize("factory", ["IVF16,PQ4x4fs", "IVF16,RQ2x4", "IVF16,PQ4x4fsr,RFlat"])
def test_lists_that_give_nothing_back_or_cannot_be_filtered_are_refused(factory: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"use product codes, such as 'IVF16,PQ8'"):
        build_bundle(features(), tmp_path / "bundle", factory=factory)


def test_a_file_of_vectors_that_ends_early_is_refused(tmp_path: Path) -> None:
    file = vector_file(tmp_path, features().vectors)
    os.truncate(file.path, file.start + 899 * 8 * 4)
    np.testing.assert_array_equal(file.take(np.array([898])), features().vectors[[898]])
    with pytest.raises(InvalidInput, match=r"vectors\.npy: ends at byte \d+, 32 too early"):
        file.take(np.array([0, 898, 899]))


def test_a_bundle_is_built_by_one_process_at_a_time(tmp_path: Path) -> None:
    with changing(tmp_path / "bundle"), pytest.raises(InvalidInput, match="another process is changing it"):
        build_bundle(features(), tmp_path / "bundle")
    build_bundle(features(), tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


BUILD = """
import sys, time
from pathlib import Path
from viewfold.retrieval.index.build import BuildSettings, make_bundle
from viewfold.retrieval.features_stream import FeatureStream
source, out, factory, cap, *stays = sys.argv[1:]
def one_and_no_more(fn, tasks):
    for task in tasks:
        yield fn(task)
        time.sleep(600)
info = make_bundle(FeatureStream.open(Path(source)), Path(out), factory=factory,
                   settings=BuildSettings(memory_cap=int(cap) or None, parallel=one_and_no_more if stays else map))
# getrusage would count what the process that started this one held
held = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(info.id, int(held) << 10, info.peak_memory_bytes)
"""


def start(*words: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", BUILD, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.mark.slow
def test_a_killed_build_goes_on_from_its_shards_to_the_bundle_of_one_never_killed(tmp_path: Path) -> None:
    source = on_disk(features(12_000, 64), tmp_path / "features").folder
    killed = start(source, tmp_path / "bundle", "IVF64,PQ8", 0, "stays")
    try:
        shards, ended = tmp_path / "bundle.build", killed.poll
        wait_until(lambda: any(shards.glob("shard-*.faiss")) or ended() is not None, seconds=300)
        assert ended() is None
    finally:
        killed.kill()
        killed.communicate()
    assert not (tmp_path / "bundle").exists()
    trained = tmp_path / "bundle.build" / "trained.faiss"
    before = trained.stat().st_mtime_ns
    assert json.loads((tmp_path / "bundle.build" / "plan.json").read_text())["factory"] == "IVF64,PQ8"
    again = start(source, tmp_path / "bundle", "IVF64,PQ8", 0)
    with suppress(FileNotFoundError):  # at the end the whole folder goes
        while again.poll() is None:
            assert trained.stat().st_mtime_ns == before
            time.sleep(0.01)
    resumed = again.communicate()[0].split()[0]
    assert resumed == start(source, tmp_path / "other", "IVF64,PQ8", 0).communicate()[0].split()[0]
    assert IndexBundle.open(tmp_path / "bundle").info.id == resumed
    assert not (tmp_path / "bundle.build").exists()


@pytest.mark.slow
def test_a_build_stays_below_its_memory_cap(tmp_path: Path) -> None:
    """The vectors and a copy of unit length, 390 MiB, would not fit beside the process of 100."""
    source = on_disk(features(400_000, 128), tmp_path / "features").folder
    cap = 460 << 20
    process = start(source, tmp_path / "bundle", "IVF256,PQ32", cap)
    out = process.communicate()[0]
    assert process.returncode == 0
    _, peak, recorded = out.split()
    assert int(peak) <= cap
    assert int(recorded) <= int(peak)
