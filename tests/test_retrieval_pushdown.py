"""Filters inside of the search, held against searching all and dropping."""

import numpy as np
import pytest
from numpy.typing import NDArray
from pools import on_circle

from viewfold.retrieval.index.faiss_index import CosineIndex, load_faiss
from viewfold.retrieval.index.pushdown import search_parameters, takes_selectors

TAKE = ["Flat", "HNSW8", "IVF8,Flat", "SQ8", "PCA8,Flat", "IVF8,PQ8x4,RFlat", "PCA8,HNSW8", "HNSW8_SQ8"]


def unit_vectors(num: int, seed: int = 0) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(num, 16)).astype(np.float32)
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


@pytest.mark.parametrize("factory", TAKE)
def test_a_selector_hides_rows_and_changes_no_other_parameter(factory: str) -> None:
    faiss, vectors = load_faiss(), unit_vectors(400)
    index = faiss.index_factory(16, factory, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    tuned = index.index if factory.startswith("PCA") else index.base_index if factory.endswith("RFlat") else index
    if "IVF" in factory or "HNSW" in factory:
        faiss.ParameterSpace().set_index_parameter(tuned, *(("nprobe", 5) if "IVF" in factory else ("efSearch", 300)))
    allowed = np.arange(400) % 3 > 0
    every = index.search(vectors[:20], 40, params=search_parameters(faiss, index, np.ones(400, dtype=bool)))[1]
    np.testing.assert_array_equal(every, index.search(vectors[:20], 40)[1])
    found = index.search(vectors[:20], 40, params=search_parameters(faiss, index, allowed))[1]
    assert allowed[found[found >= 0]].all()
    assert (found >= 0).mean() > 0.9


@pytest.mark.parametrize("factory", ["PQ8x4", "PQ8x4fs", "IVF8,RQ2x4", "Flat", "HNSW8", "IVF8,Flat"])
def test_few_allowed_rows_are_looked_at_one_by_one_whatever_the_index(factory: str) -> None:
    vectors, queries = unit_vectors(700), unit_vectors(9, seed=1)
    index = CosineIndex.build(vectors, factory)
    assert takes_selectors(load_faiss(), index.faiss_index) == ("Q" not in factory)
    allowed = np.zeros(700, dtype=bool)
    allowed[::60] = True  # 12 rows, of which one list of eight holds one or two
    hits = index.search(queries, 5, allowed=allowed)
    stored = index.vectors(np.flatnonzero(allowed)).astype(np.float64)
    expected = np.flatnonzero(allowed)[np.argsort(-(queries @ stored.T), axis=1)[:, :5]]
    np.testing.assert_array_equal(hits.rows, expected)
    assert index.search(queries, 20, allowed=allowed).rows.shape == (9, 20)
    assert (index.search(queries, 2, allowed=np.zeros(700, dtype=bool)).rows == -1).all()


def test_an_approximate_index_that_runs_dry_is_looked_through() -> None:
    """One list of eight is searched, and all of it is excluded."""
    vectors = unit_vectors(700)
    index = CosineIndex.build(vectors, "IVF8,Flat")
    near = index.candidates(vectors[:1], 700)
    assert near.dry.all()
    assert not near.complete.any()
    list_of_it = near.rows[0][near.rows[0] >= 0]
    hits = index.search(vectors[:1], 3, excluded=[list_of_it])
    cosines = vectors.astype(np.float64) @ vectors[0]
    cosines[list_of_it] = -2
    assert hits.rows[0].tolist() == np.argsort(-cosines)[:3].tolist()


def test_candidates_say_below_which_score_they_are_not_all() -> None:
    index = CosineIndex.build(on_circle(list(range(1, 90))), "Flat")
    found = index.candidates(on_circle([0]), 10)
    assert found.rows[0].tolist() == list(range(10))
    assert found.floor[0] == pytest.approx(np.cos(np.radians(10)), abs=1e-5)
    assert index.candidates(on_circle([0]), 89).complete.tolist() == [True]
    exact = index.candidates(on_circle([0]), 10, exhaustive=True)
    np.testing.assert_array_equal(exact.rows, found.rows)
    np.testing.assert_array_equal(exact.scores, found.scores)
