"""k-means in one level and in two: how good, how even and how repeatable its clusters are."""

import numpy as np
import pytest
from numpy.typing import NDArray

from viewfold.errors import InvalidInput
from viewfold.retrieval.index.kmeans import MANY, kmeans


def grouped(num_groups: int, per_group: int, spread: float = 0.4) -> NDArray[np.float32]:
    """Unit vectors around random directions."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(num_groups, 16)).repeat(per_group, axis=0)
    vectors = centres + spread * random.normal(size=centres.shape)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def centre_cosine(vectors: NDArray[np.float32], cluster: NDArray[np.int64]) -> float:
    """Mean cosine of a row with the mean direction of its cluster: what spherical k-means makes large."""
    sums = np.zeros((cluster.max() + 1, vectors.shape[1]))
    np.add.at(sums, cluster, vectors)
    return float(np.linalg.norm(sums, axis=1).sum() / len(vectors))


def test_its_clusters_are_nearly_as_tight_as_the_groups_that_the_rows_were_drawn_around() -> None:
    vectors = grouped(12, 100)
    cluster = kmeans(vectors, 12, seed=0)
    assert cluster.dtype == np.int64
    assert centre_cosine(vectors, cluster) > 0.96 * centre_cosine(vectors, np.arange(1200) // 100)


def test_groups_far_apart_are_found_as_they_are() -> None:
    vectors = grouped(2, 50, spread=0.05)
    cluster = kmeans(vectors, 2, seed=0)
    assert (cluster == cluster.reshape(2, 50)[:, :1].repeat(50, axis=1).ravel()).all()
    assert cluster[0] != cluster[-1]


def test_two_levels_give_as_many_clusters_nearly_as_tight_and_of_even_size() -> None:
    vectors = grouped(400, 20)
    two_levels, one_level = kmeans(vectors, MANY + 64, seed=0), kmeans(vectors, MANY, seed=0)
    assert set(np.unique(two_levels)) <= set(range(MANY + 64))
    sizes = np.bincount(two_levels, minlength=MANY + 64)
    assert (sizes > 0).mean() > 0.98
    assert sizes.max() < 5 * sizes.mean()
    assert centre_cosine(vectors, two_levels) > 0.97 * centre_cosine(vectors, one_level)


@pytest.mark.parametrize("num_clusters", [1, 5, MANY + 44])
def test_the_seed_decides(num_clusters: int) -> None:
    vectors = grouped(60, 10)
    first = kmeans(vectors, num_clusters, seed=3)
    assert np.array_equal(first, kmeans(vectors, num_clusters, seed=3))
    assert np.array_equal(first, kmeans(vectors, num_clusters, seed=4)) == (num_clusters == 1)


def test_as_many_clusters_as_rows_are_one_for_each() -> None:
    for count in (7, MANY + 10):
        vectors = grouped(count, 1)
        assert sorted(kmeans(vectors, count, seed=0).tolist()) == list(range(count))


def test_more_clusters_than_rows_are_refused() -> None:
    for num_clusters in (0, 21):
        with pytest.raises(InvalidInput, match=f"{num_clusters} clusters of 20 vectors"):
            kmeans(grouped(2, 10), num_clusters, seed=0)
