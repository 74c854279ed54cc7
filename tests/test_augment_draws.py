"""Draws are a function of their address: counter based, the same bits as the floor's, never a global generator."""

import math

import numpy as np
import pytest
import torch

from viewfold.augment.draws import normal_pairs, uniforms, uniforms_between, view_keys
from viewfold.keyed import key64
from viewfold.keyed import uniforms as keyed_uniforms

KEYS = view_keys(3, [0] * 64, [f"s/{i}" for i in range(64)], 1)


def test_view_keys_are_the_floors_keys_as_signed_numbers() -> None:
    assert KEYS.dtype == torch.int64
    assert [int(key) % 2**64 for key in KEYS[:3]] == [key64(3, 0, f"s/{i}", 1) for i in range(3)]
    assert len(set(KEYS.tolist())) == 64


def test_uniforms_have_the_bits_of_the_floors_generator() -> None:
    names = ["rotation_rad", "hue"]
    for column, name in enumerate(names):
        keys = KEYS.numpy().view(np.uint64) ^ np.uint64(key64("column", name))
        np.testing.assert_array_equal(uniforms(KEYS, names)[:, column].numpy(), keyed_uniforms(keys, 1)[:, 0])


def test_ranges_are_reached_and_kept() -> None:
    keys = view_keys(0, [0] * 4000, [f"s/{i}" for i in range(4000)], 0)
    draws = uniforms_between(keys, {"a": (-2.0, 3.0), "b": (0.25, 0.25)})
    assert draws.dtype == torch.float32
    unit = ((draws[:, 0] + 2) / 5).sort().values
    assert (unit - (torch.arange(4000) + 0.5) / 4000).abs().max() < 1.95 / math.sqrt(4000)  # Kolmogorov-Smirnov, 0.1 %
    assert (draws[:, 1] == 0.25).all()


def test_normal_pairs_are_standard_normal_and_uncorrelated() -> None:
    keys = view_keys(0, [0] * 500, [f"s/{i}" for i in range(500)], 0)
    normals = normal_pairs(keys, ["a", "b"], 40)
    assert normals.shape == (500, 2, 2, 40)
    values = normals.flatten().double().sort().values
    n = len(values)
    steps = (torch.arange(n) + 0.5) / n
    assert (torch.special.ndtr(values) - steps).abs().max() < 1.95 / math.sqrt(n)
    assert float((values**4).mean() / values.square().mean() ** 2) == pytest.approx(3, abs=5 * math.sqrt(24 / n))
    streams = normals.permute(1, 2, 3, 0).reshape(160, 500)
    correlations = torch.corrcoef(streams.double()) - torch.eye(160)
    assert correlations.abs().max() < 5.5 / math.sqrt(500)  # of 12 720 pairs
    lagged = torch.corrcoef(torch.stack([values[:-1], values[1:]]))  # sorted values are correlated: the check can fail
    assert lagged[0, 1] > 0.9


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [[3], [5, 1, 7], list(range(63, -1, -1)), list(range(13))])
def test_a_draw_depends_on_its_key_alone_bit_for_bit(rows: list[int], threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(normal_pairs(KEYS[rows], ["a", "b"], 98), normal_pairs(KEYS, ["a", "b"], 98)[rows])
        assert torch.equal(uniforms(KEYS[rows], ["a"]), uniforms(KEYS, ["a"])[rows])
    finally:
        torch.set_num_threads(before)


def test_more_modes_or_columns_change_no_draw() -> None:
    few, many = normal_pairs(KEYS, ["b"], 24), normal_pairs(KEYS, ["a", "b"], 98)
    assert torch.equal(few[:, 0], many[:, 1, :, :24])


def test_global_generators_are_neither_read_nor_moved() -> None:
    state, first = torch.get_rng_state(), normal_pairs(KEYS, ["a"], 5)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        assert torch.equal(normal_pairs(KEYS, ["a"], 5), first)
