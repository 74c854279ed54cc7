"""Cosine search: held against plain NumPy."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pools import on_circle

from viewfold.errors import ArtifactMismatch, InvalidInput
from viewfold.retrieval.index.build_measure import ask_exactly, measured_recall
from viewfold.retrieval.index.build_vectors import VectorFile
from viewfold.retrieval.index.faiss_index import CosineIndex
from viewfold.retrieval.index.lookup import RowsByValue
from viewfold.retrieval.index.vector_index import unit_rows

NO_ROWS = np.empty(0, dtype=np.int64)


def unit_vectors(num_rows: int, dim: int = 16, seed: int = 0) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(num_rows, dim)).astype(np.float32)
    return unit_rows(vectors, [""] * num_rows)


def brute_force(
    pool: NDArray[np.float32], query: NDArray[np.float32], k: int, banned: NDArray[np.int64]
) -> tuple[list[int], list[float]]:
    scores = (pool.astype(np.float64) @ (query.astype(np.float64) / np.linalg.norm(query.astype(np.float64)))).round(6)
    order = sorted((-score, row) for row, score in enumerate(scores.tolist()) if row not in banned)[:k]
    return [row for _, row in order], [-score for score, _ in order]


@pytest.mark.parametrize("k", [1, 7, 300])
def test_flat_search_with_exclusions_equals_brute_force(k: int) -> None:
    rng = np.random.default_rng(1)
    pool, queries = unit_vectors(300), rng.normal(size=(20, 16)).astype(np.float32)
    pool[100:200] = pool[:100]  # copies: every score occurs twice and ties decide the order
    nearest_first = np.argsort(-queries @ pool.T, axis=1)
    banned = [order[: rng.integers(0, 280)] for order in nearest_first]  # whoever loses the nearest must look further
    hits = CosineIndex.build(pool, "Flat").search(queries, k, excluded=banned)
    for query, rows, scores, out in zip(queries, hits.rows, hits.scores, banned, strict=True):
        expected_rows, expected_scores = brute_force(pool, query, k, out)
        assert rows[rows >= 0].tolist() == expected_rows
        np.testing.assert_allclose(scores[rows >= 0], expected_scores, rtol=0, atol=1e-6)


def test_a_query_has_the_same_answer_alone_and_in_a_batch() -> None:
    index, queries = CosineIndex.build(unit_vectors(500), "Flat"), unit_vectors(64, seed=2)
    batch = index.search(queries, 9)
    for row, query in enumerate(queries):
        alone = index.search(query[None], 9)
        np.testing.assert_array_equal(alone.rows[0], batch.rows[row])
        np.testing.assert_array_equal(alone.scores[0], batch.scores[row])


def test_equal_scores_are_ordered_by_row_even_where_the_first_candidates_end() -> None:
    pool = np.repeat(on_circle([30]), 500, axis=0)
    hits = CosineIndex.build(pool, "Flat").search(on_circle([0]), 3)
    assert hits.rows.tolist() == [[0, 1, 2]]
    assert hits.scores.tolist() == [[round(float(np.cos(np.pi / 6)), 6)] * 3]


def test_scores_that_round_to_the_same_are_ordered_by_row_however_many_they_are() -> None:
    """Later rows are nearer by less than the rounding, so FAISS's own best 64 hold none of the answer."""
    cosines = 0.5 + np.linspace(-3e-7, 3e-7, 300)
    pool = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1).astype(np.float32)
    index = CosineIndex.build(pool, "Flat")
    assert index.search(on_circle([0]), 3).rows.tolist() == [[0, 1, 2]]
    banned = [np.arange(10), np.arange(4), np.arange(0)]
    assert index.search(on_circle([0, 0, 180]), 2, excluded=banned).rows.tolist() == [[10, 11], [4, 5], [0, 1]]


def test_what_the_guards_leave_too_few_of_is_minus_one() -> None:
    hits = CosineIndex.build(on_circle([0, 10, 20]), "Flat").search(on_circle([0]), 5, excluded=[np.array([0, 2])])
    assert hits.rows.tolist() == [[1, -1, -1]]
    assert hits.scores[0, 1] == -np.inf


def test_similarity_scores_as_search_does_and_ignores_the_length_of_the_query() -> None:
    index, queries = CosineIndex.build(unit_vectors(50), "Flat"), unit_vectors(4, seed=3)
    hits = index.search(queries, 6)
    np.testing.assert_array_equal(index.similarity(queries * np.float32(8), hits.rows), hits.scores)


@pytest.mark.parametrize("shape", [(300, 70), (2, 20_000)])
def test_scores_are_the_same_whatever_is_gathered_at_a_time(shape: tuple[int, int]) -> None:
    index, queries = CosineIndex.build(unit_vectors(500), "Flat"), unit_vectors(shape[0], seed=4).astype(np.float64)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    rows = np.random.default_rng(5).integers(0, 500, shape)
    whole = np.einsum("qd,qmd->qm", queries, index.vectors(rows).astype(np.float64)).round(6)
    np.testing.assert_array_equal(index.similarity(queries, rows), whole)


@pytest.mark.parametrize("factory", ["Flat", "IVF8,Flat", "HNSW16", "PQ8x4", "SQ8", "PCA8,Flat", "IVF8,PQ8x4"])
def test_any_factory_is_written_and_read_back_to_the_same_answers(factory: str, tmp_path: Path) -> None:
    pool = unit_vectors(700)
    index = CosineIndex.build(pool, factory)
    index.write(tmp_path / "index.faiss")
    before, after = index.search(pool[:9], 5), CosineIndex.read(tmp_path / "index.faiss").search(pool[:9], 5)
    np.testing.assert_array_equal(before.rows, after.rows)
    np.testing.assert_array_equal(before.scores, after.scores)


def test_recall_is_one_for_an_exact_index_and_lower_for_one_that_looks_into_one_list_of_eight(tmp_path: Path) -> None:
    pool, sample = unit_vectors(700), np.arange(0, 700, 7)
    pool[1::2] = pool[::2]  # copies must not count as misses
    vectors = VectorFile.create(tmp_path / "vectors.npy", *pool.shape)
    vectors.put(np.arange(700), pool)
    asked = ask_exactly(vectors, pool[sample], sample, alive=None, block_rows=64)
    assert measured_recall(CosineIndex.build(pool, "Flat"), vectors, asked, 10) == 1.0
    approximate = CosineIndex.build(pool, "IVF8,Flat")
    own = [np.array([row]) for row in sample]
    truth = [brute_force(pool, pool[row], 10, out)[1][-1] for row, out in zip(sample, own, strict=True)]
    found = approximate.search(pool[sample], 10, excluded=own)
    expected = np.mean([(scores >= kth - 2e-6).mean() for scores, kth in zip(found.scores, truth, strict=True)])
    recall = measured_recall(approximate, vectors, asked, 10)
    assert recall == pytest.approx(float(expected), abs=1e-12)
    assert 0.1 < recall < 0.95


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("Flot", "could not parse index string Flot"),
        ("", "could not parse index string"),
        ("PQ7x4", "should be a multiple of the number of subquantizers"),
        ("IDMap,Flat", "use add_with_ids"),
        ("IVF64,Flat", "to train 64 centroids takes 2496 vectors, there are 700; use 'Flat', or at most 17 centroids"),
        ("PQ8", "to train 256 centroids takes 9984 vectors"),
        ("OPQ8,IVF8,PQ8x4", "to train 256 centroids"),
        ("IVF64,Flat,RFlat", "to train 64 centroids"),
    ],
)
def test_a_factory_that_cannot_be_built_is_refused_in_one_line(factory: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as caught:
        CosineIndex.build(unit_vectors(700), factory)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"factory {factory!r}: ")


def test_the_rows_of_a_value_are_found_and_null_is_nobodys_value() -> None:
    lookup = RowsByValue(pa.chunked_array([["b", None, "a"], ["b", None]]))
    rows = lookup.rows(["b", "a", "c", None, "b"])
    assert [found.tolist() for found in rows] == [[0, 3], [2], [], [], [0, 3]]
    assert RowsByValue(pa.chunked_array([pa.nulls(2, pa.string())])).rows(["a", None])[0].tolist() == []


def test_vectors_of_another_length_and_without_direction_are_refused() -> None:
    index = CosineIndex.build(unit_vectors(50), "Flat")
    with pytest.raises(ArtifactMismatch, match="query vectors have 8 numbers and the index holds vectors of 16"):
        index.search(unit_vectors(2, dim=8), 3)
    with pytest.raises(InvalidInput, match="query 1: its vector is all zeros or not finite"):
        index.search(np.stack([np.ones(16), np.zeros(16)]), 3)
    many = np.ones((9000, 16))  # more than one round: 2**24 // (200 * 16) are 5242
    many[8000] = np.nan
    with pytest.raises(InvalidInput, match="query 8000: "):
        CosineIndex.build(unit_vectors(200), "Flat").search(many, 20)


def test_a_file_that_faiss_cannot_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.faiss").write_bytes(b"nonsense" * 10)
    with pytest.raises(InvalidInput, match=r"index\.faiss: FAISS cannot read this index"):
        CosineIndex.read(tmp_path / "index.faiss")
