"""Degenerate filters are found where they were put, and a fresh network has none."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from viewfold.ssl.evaluate import FilterReport, degenerate_filters
from viewfold.ssl.evaluate.filters import duplicate_share, spectrum_entropy


def conv(inputs: int = 16, outputs: int = 32, *, seed: int = 0, groups: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, 3, groups=groups)
    with torch.no_grad():
        layer.weight.normal_(generator=torch.Generator().manual_seed(seed))
    return layer


def report(layer: nn.Module) -> FilterReport:
    (only,) = degenerate_filters(layer)
    return only


def test_a_fresh_layer_has_no_degenerate_filter() -> None:
    found = report(conv())
    assert (found.num, found.near_zero, found.near_duplicate, found.low_entropy) == (512, 0, 0, 0)
    assert found.entropy_ratio == pytest.approx(1, abs=0.01)
    small = [report(conv(3, 1, seed=seed)).entropy_ratio for seed in range(60)]
    assert np.mean(np.array(small, dtype=float)) == pytest.approx(1, abs=0.05)


def test_entropy_has_its_closed_forms_and_equals_singular_values() -> None:
    # Plus and minus one pixel: equal variance in each of nine directions. With one pixel alone: a single direction.
    even = torch.cat([torch.eye(9), -torch.eye(9)]).double()[None]
    assert spectrum_entropy(even).item() == pytest.approx(math.log(9))
    single = torch.outer(torch.arange(5.0), torch.ones(9)).double()[None]
    assert spectrum_entropy(single).item() == pytest.approx(0, abs=1e-9)
    rows = np.random.default_rng(0).normal(size=(20, 9))
    share = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
    share /= share.sum()
    assert spectrum_entropy(torch.from_numpy(rows)[None]).item() == pytest.approx(-(share * np.log(share)).sum())


def test_a_zeroed_layer_is_near_zero_throughout() -> None:
    layer = conv()
    nn.init.zeros_(layer.weight)
    found = report(layer)
    assert (found.near_zero, found.near_duplicate, found.low_entropy, found.entropy_ratio) == (1, 0, 1, 0)


def test_zeroed_output_channels_are_counted_as_near_zero() -> None:
    layer = conv()
    with torch.no_grad():
        layer.weight[:8] *= 1e-4
    found = report(layer)
    assert (found.near_zero, found.near_duplicate) == (0.25, 0)


def test_a_slice_that_repeats_another_up_to_scale_and_sign_is_a_duplicate() -> None:
    layer = conv(4, 5)
    with torch.no_grad():
        layer.weight[3, 1] = -0.3 * layer.weight[0, 2]
    assert report(layer).near_duplicate == 2 / 20
    with torch.no_grad():
        layer.weight[4] = 2 * layer.weight[1]
    assert report(layer).near_duplicate == 10 / 20


def test_a_rank_one_layer_has_no_entropy_and_one_such_channel_is_counted() -> None:
    layer, pattern = conv(), torch.linspace(-1, 1, 9).reshape(3, 3)
    with torch.no_grad():
        layer.weight[0] = torch.randn(16, 1, 1, generator=torch.Generator().manual_seed(1)) * pattern
    found = report(layer)
    assert found.low_entropy == 1 / 32
    assert found.entropy_ratio is not None
    assert found.entropy_ratio > 0.9
    with torch.no_grad():
        layer.weight.copy_(torch.randn(32, 16, 1, 1, generator=torch.Generator().manual_seed(1)) * pattern)
    flat = report(layer)
    assert (flat.low_entropy, flat.near_duplicate) == (1, 1)
    assert flat.entropy_ratio == pytest.approx(0, abs=1e-5)


def test_a_sample_of_a_large_layer_finds_the_same_share() -> None:
    slices = torch.randn(9000, 9, generator=torch.Generator().manual_seed(0))
    slices[::2] = slices[0]
    share = duplicate_share(slices)
    assert share == pytest.approx(0.5, abs=0.03)
    assert duplicate_share(slices) == share
    assert duplicate_share(slices[:1]) == 0


def test_layers_of_other_sizes_are_ignored_and_depthwise_ones_have_no_entropy_by_channel() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 7), conv(8, 8), nn.Conv2d(8, 8, 1), conv(8, 8, groups=8), nn.Linear(3, 3))
    found = degenerate_filters(network)
    assert [(one.layer, one.num) for one in found] == [("1", 64), ("3", 8)]
    assert found[1].low_entropy is None
    assert found[1].entropy_ratio is not None
    assert report(conv(1, 2)).entropy_ratio is None
    assert degenerate_filters(nn.Linear(3, 3)) == []
    json.dumps([dataclasses.asdict(one) for one in found])
