"""The table of nearest rows against a full table of scores: ties, exclusions and what is left when rows run out."""

import numpy as np
import pytest
from numpy.typing import NDArray

from viewfold.retrieval import NeighbourTable, neighbour_table


def unit_vectors(count: int, dim: int = 8, seed: int = 0) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(count, dim))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def by_full_sort(vectors: NDArray[np.float32], k: int, apart: NDArray[np.int64] | None = None) -> NeighbourTable:
    """Every score, sorted by a stable sort."""
    scores = (vectors.astype(np.float64) @ vectors.T.astype(np.float64)).round(6)
    group = np.arange(len(vectors)) if apart is None else apart
    scores[group[:, None] == group] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    order = np.pad(order, ((0, 0), (0, k - order.shape[1])))
    best = np.take_along_axis(scores, order, 1)
    best[:, len(vectors) :] = -np.inf
    return NeighbourTable(np.where(best > -np.inf, order, -1), best.astype(np.float32))


def assert_same(found: NeighbourTable, expected: NeighbourTable) -> None:
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert found.rows.dtype == np.int64
    assert found.scores.dtype == np.float32


@pytest.mark.parametrize("k", [1, 7, 30])
def test_the_nearest_rows_are_those_of_a_full_sort(k: int) -> None:
    vectors = unit_vectors(500)
    assert_same(neighbour_table(vectors, k), by_full_sort(vectors, k))


@pytest.mark.parametrize("groups", [250, 20, 2])
def test_rows_kept_apart_are_not_neighbours(groups: int) -> None:
    vectors = unit_vectors(500)
    vectors = vectors + 5 * unit_vectors(groups, seed=1)[np.arange(500) % groups]  # nearest are those of one's group
    apart = np.arange(500) % groups * 1000 - 7
    table = neighbour_table(vectors, 5, apart=apart)
    assert_same(table, by_full_sort(vectors, 5, apart))
    assert (apart[table.rows] != apart[:, None]).all()


def test_equal_scores_are_in_ascending_order_of_rows_beyond_what_is_fetched_first() -> None:
    vectors = unit_vectors(4)[np.arange(400) % 4]  # a hundred copies of four vectors
    table = neighbour_table(vectors, 10)
    assert_same(table, by_full_sort(vectors, 10))
    assert table.rows[396].tolist() == list(range(0, 40, 4))
    one_of_each = neighbour_table(vectors, 10, apart=np.arange(400) // 4)
    assert_same(one_of_each, by_full_sort(vectors, 10, np.arange(400) // 4))


def test_a_tie_of_all_rows_is_settled_among_some_of_them() -> None:
    vectors = unit_vectors(1, dim=2)[np.zeros(1100, dtype=int)]
    table = neighbour_table(vectors, 3)
    assert (table.scores == 1).all()
    assert (np.diff(table.rows, axis=1) > 0).all()
    assert (table.rows != np.arange(1100)[:, None]).all()
    apart = np.arange(1100) // 1095  # an exclusion is not given up, however many rows it takes
    assert neighbour_table(vectors, 3, apart=apart).rows[:1095].tolist() == [[1095, 1096, 1097]] * 1095


def test_where_rows_run_out_the_table_says_so() -> None:
    vectors = unit_vectors(6)
    apart = np.array([0, 0, 0, 0, 0, 1])
    for k in (3, 6, 9):
        assert_same(neighbour_table(vectors, k, apart=apart), by_full_sort(vectors, k, apart))
    assert neighbour_table(vectors[:1], 2).rows.tolist() == [[-1, -1]]
    assert neighbour_table(vectors[:0], 2).rows.shape == (0, 2)


def test_numbering_the_rows_otherwise_renames_them_in_the_table() -> None:
    vectors = unit_vectors(300)
    order = np.random.default_rng(0).permutation(300)
    table, renamed = neighbour_table(vectors, 10), neighbour_table(vectors[order], 10)
    np.testing.assert_array_equal(order[renamed.rows], table.rows[order])
    np.testing.assert_array_equal(renamed.scores, table.scores[order])


def test_rows_that_are_not_adjacent_in_memory_count_the_same() -> None:
    vectors = unit_vectors(200, dim=16)
    assert_same(neighbour_table(vectors[::2, ::2], 4), by_full_sort(vectors[::2, ::2], 4))
