"""Principal components against singular vectors, and the sign that it leaves open."""

import numpy as np
import pytest

from viewfold.errors import InvalidInput
from viewfold.retrieval import principal_components


def test_components_are_those_of_a_singular_value_decomposition_but_for_the_sign() -> None:
    vectors = (np.random.default_rng(0).normal(size=(300, 12)) * np.arange(1, 13)).astype(np.float32)
    ours = principal_components(vectors, 5, seed=0)
    u, s, _ = np.linalg.svd(vectors - vectors.mean(axis=0, dtype=np.float64), full_matrices=False)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(np.abs(ours), np.abs(u * s)[:, :5], atol=2e-4)


def test_all_components_keep_every_distance() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    components = principal_components(vectors, 6, seed=0)
    expected = np.linalg.norm(vectors[:, None] - vectors, axis=2)
    np.testing.assert_allclose(np.linalg.norm(components[:, None] - components, axis=2), expected, atol=1e-5)


def test_the_sign_makes_the_largest_weight_positive() -> None:
    one_direction = np.linspace(-1, 1, 20, dtype=np.float32)[:, None]
    components = principal_components(one_direction * np.array([1, -3, 2], dtype=np.float32), 1, seed=0)
    assert (np.diff(components[:, 0]) < 0).all()  # along (-1, 3, -2)


def test_directions_of_a_sample_are_nearly_those_of_all() -> None:
    random = np.random.default_rng(0)
    vectors = (random.normal(size=(1 << 18, 3)) * [5, 2, 1]).astype(np.float32)
    components = principal_components(vectors, 2, seed=0)
    np.testing.assert_allclose(components.std(axis=0), [5, 2], rtol=0.02)
    assert np.array_equal(components, principal_components(vectors, 2, seed=0))


def test_more_components_than_numbers_are_refused() -> None:
    with pytest.raises(InvalidInput, match="7 components of vectors of 6 numbers"):
        principal_components(np.eye(6, dtype=np.float32), 7, seed=0)
