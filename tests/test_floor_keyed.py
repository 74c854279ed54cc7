"""Keyed randomness: the published generator, and draws that depend on their own key alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from viewfold.keyed import generator, key64, uniforms

# The first outputs of splitmix64 for the state 1234567, https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64
SPLITMIX64_1234567 = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]
KEYS = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=8)


def test_uniforms_are_the_top_53_bits_of_splitmix64() -> None:
    expected = [(word >> 11) / 2**53 for word in SPLITMIX64_1234567]
    assert uniforms([1234567], 5).tolist() == [expected]


@given(KEYS, st.integers(0, 7))
def test_a_row_depends_on_its_own_key_alone(keys: list[int], which: int) -> None:
    row = which % len(keys)
    np.testing.assert_array_equal(uniforms(keys, 4)[row], uniforms([keys[row]], 4)[0])


@given(KEYS)
def test_more_draws_begin_with_the_fewer(keys: list[int]) -> None:
    np.testing.assert_array_equal(uniforms(keys, 9)[:, :3], uniforms(keys, 3))


@given(KEYS)
def test_draws_lie_in_0_to_1_without_1(keys: list[int]) -> None:
    draws = uniforms(keys, 5)
    assert draws.min() >= 0
    assert draws.max() < 1


def test_draws_of_neighbouring_keys_are_uniform_and_uncorrelated() -> None:
    draws = uniforms(np.arange(100_000, dtype=np.uint64), 2)
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    chi_sq = ((counts - 10_000) ** 2 / 10_000).sum()
    assert chi_sq < 43.8  # 0.999 quantile of chi square with 19 degrees of freedom
    correlation = (draws - 0.5).prod(axis=1).mean() * 12  # a uniform has the variance 1/12
    assert abs(correlation) < 0.0104  # 3.3 standard errors, 1 / sqrt(100_000) each


def test_a_key_is_the_same_on_every_machine() -> None:
    # printf 'i0\x1fi3\x1fsobjects-000000/obj-0546\x1fi1\x1fsangle' | b2sum -l 64, the first byte lowest
    assert key64(0, 3, "objects-000000/obj-0546", 1, "angle").to_bytes(8, "little").hex() == "ffa1f55fd2e410eb"


@pytest.mark.parametrize(
    ("one", "other"),
    [((1,), ("1",)), (("ab", "c"), ("a", "bc")), (("a", "b"), ("ab",)), ((1, 23), (12, 3)), ((0, 1), (1, 0))],
)
def test_keys_of_different_parts_differ(one: tuple[str | int, ...], other: tuple[str | int, ...]) -> None:
    assert key64(*one) != key64(*other)


def test_a_generator_belongs_to_its_parts() -> None:
    order = generator("order", 3).permutation(100)
    np.testing.assert_array_equal(order, generator("order", 3).permutation(100))
    assert (order != generator("order", 4).permutation(100)).any()


def test_the_global_generator_is_untouched() -> None:
    np.random.seed(5)
    untouched = np.random.random()
    np.random.seed(5)
    generator("order", 3).permutation(100)
    uniforms([1, 2], 3)
    assert np.random.random() == untouched
