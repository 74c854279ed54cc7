"""An index in parts answers as one: the same demonstrations, ties and counts included."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pools import pool

from viewfold.config import parse
from viewfold.errors import ArtifactMismatch, InvalidInput
from viewfold.retrieval import IndexBundle, Query, SelectConfig, build_bundle, explain, remove_images, select
from viewfold.retrieval.index.shards import IndexPart, open_sharded, part_rows

ROWS, DIM = 6000, 8  # a mask of more than 4096 rows is handed to FAISS, one of fewer is looked through
FACTORIES = ["Flat", pytest.param("IVF32,Flat", marks=pytest.mark.slow)]

SETTINGS: list[dict[str, Any]] = [
    {},
    {"k": 0},
    {"k": 300},
    {"filters": {"not_domains": ["c"]}},
    {"filters": {"labels": ["0"], "not_domains": ["b"]}},
    {"filters": {"domains": ["c"]}, "k": 20},
    {"quota": {"rule": "min_per_class", "per_class": 2}, "k": 12},
    {"diversity": {"lam": 0.5}},
    {"strategy": "random", "k": 9},
    {"guards": {"duplicate_space": "own", "duplicate_cosine": 0.99}},
]


def gathered(seed: int = 0) -> NDArray[np.float32]:
    """Vectors of which every third stands twice and 120 are one and the same: rows that tie, in different parts."""
    vectors = np.random.default_rng(seed).normal(size=(ROWS, DIM)).astype(np.float32)
    vectors[ROWS // 2 :: 3] = vectors[: ROWS // 2 : 3]
    vectors[10::50] = vectors[10]
    return vectors


@pytest.fixture(scope="module", params=FACTORIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("sharded") / "bundle"
    columns: dict[str, Any] = {
        "label": [str(row % 5) for row in range(ROWS)],
        "domain": ["aaabbbbbbc"[row % 10] for row in range(ROWS)],
        "group": [str(row // 4) for row in range(ROWS)],
        "phash": [f"{(row * 2654435761) % 2**32:016x}" for row in range(ROWS)],
    }
    build_bundle(pool(gathered(), **columns), out, factory=request.param)
    return out


def in_parts(folder: Path, of: int) -> IndexBundle:
    return open_sharded(folder, lambda info: [IndexPart.open(folder, number, of) for number in range(of)])


def queries() -> list[Query]:
    vectors = np.concatenate([np.random.default_rng(1).normal(size=(20, DIM)), gathered()[[10, 11, 999, 1500]]])
    return [
        Query(f"{row:04d}", vector, group=str(row), phash=f"{(row * 2654435761) % 2**32:016x}")
        for row, vector in enumerate(vectors)
    ]


@pytest.mark.slow
def test_parts_choose_the_demonstrations_that_one_index_chooses(folder: Path) -> None:
    whole, parts = IndexBundle.open(folder), in_parts(folder, 3)
    for settings in SETTINGS:
        config = parse(SelectConfig, settings)
        assert select(parts, queries(), config) == select(whole, queries(), config)
    assert [select(parts, [query], config)[0] for query in queries()] == select(whole, queries(), config)


def test_parts_leave_out_what_was_removed_as_one_index_does(folder: Path, tmp_path: Path) -> None:
    out = shutil.copytree(folder, tmp_path / "bundle")
    remove_images(out, [f"{row:04d}" for row in range(0, ROWS, 17)])
    whole, parts = IndexBundle.open(out), in_parts(out, 2)
    assert select(parts, queries(), SelectConfig()) == select(whole, queries(), SelectConfig())


@pytest.mark.slow
def test_parts_search_and_explain_as_one_index(folder: Path) -> None:
    whole, parts = IndexBundle.open(folder), in_parts(folder, 3)
    vectors = np.stack([query.vector for query in queries()])
    for k in (1, 45, 700):
        expected, found = whole.search(vectors, k), parts.search(vectors, k)
        np.testing.assert_array_equal(found.rows, expected.rows)
        np.testing.assert_array_equal(found.scores, expected.scores)
    near = slice(0, 60)  # which of equal rows stand last of what is looked at is up to FAISS; none of them is chosen
    for asked in queries()[::5]:
        assert explain(parts, asked, SelectConfig())[near] == explain(whole, asked, SelectConfig())[near]


@pytest.mark.slow
def test_rotated_codes_are_cut_too(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(800, DIM)).astype(np.float32)
    whole = build_bundle(pool(vectors), tmp_path / "bundle", factory="PCA6,IVF16,SQ8")
    parts = in_parts(tmp_path / "bundle", 3)
    assert select(parts, queries(), SelectConfig(k=9)) == select(whole, queries(), SelectConfig(k=9))


def test_parts_hold_the_vectors_of_the_whole_and_refuse_what_it_refuses(folder: Path) -> None:
    whole, parts = IndexBundle.open(folder), in_parts(folder, 3)
    rows = np.random.default_rng(2).integers(0, ROWS, size=(3, 50))
    np.testing.assert_array_equal(parts.index.vectors(rows), whole.index.vectors(rows))
    with pytest.raises(ArtifactMismatch, match="9 numbers"):
        parts.search(np.ones((1, 9)), 3)
    with pytest.raises(InvalidInput, match="query 1"):
        parts.search(np.stack([np.ones(DIM), np.zeros(DIM)]), 3)


def test_parts_are_of_equal_size_and_leave_no_row_out() -> None:
    cuts = [part_rows(1001, number, 4) for number in range(4)]
    assert [first for first, _ in cuts[1:]] == [last for _, last in cuts[:-1]]
    assert (cuts[0][0], cuts[-1][1]) == (0, 1001)
    assert max(last - first for first, last in cuts) - min(last - first for first, last in cuts) <= 1
    with pytest.raises(InvalidInput, match="3 images cannot be cut into 4 parts"):
        part_rows(3, 0, 4)


def test_a_graph_is_served_whole_and_refused_in_parts(tmp_path: Path) -> None:
    whole = build_bundle(pool(gathered()[:200]), tmp_path / "bundle", factory="HNSW8")
    one = in_parts(tmp_path / "bundle", 1)
    assert select(one, queries(), SelectConfig()) == select(whole, queries(), SelectConfig())
    with pytest.raises(InvalidInput, match="'HNSW8' cannot be cut into parts; serve it as one"):
        in_parts(tmp_path / "bundle", 2)


def test_a_damaged_index_file_is_refused_by_the_part_that_reads_it(tmp_path: Path) -> None:
    build_bundle(pool(gathered()[:50]), tmp_path / "bundle")
    with (tmp_path / "bundle" / "index.faiss").open("r+b") as file:
        file.seek(200)
        file.write(b"\x00\x01")
    open_sharded(tmp_path / "bundle", lambda info: [_Nowhere(info.n)])
    with pytest.raises(InvalidInput, match=r"index\.faiss: damaged or changed"):
        IndexPart.open(tmp_path / "bundle", 0, 2)


class _Nowhere:
    """A part that nobody asks."""

    first = 0

    def __init__(self, num_rows: int) -> None:
        self.last = num_rows

    def nearest(self, *_: object) -> Any:
        raise AssertionError

    def vectors(self, _: object) -> Any:
        raise AssertionError
