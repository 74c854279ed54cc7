"""Ranks, nearest subspaces and their overlap: tabulated values, and closed forms of orthogonal subspaces."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from viewfold.errors import InvalidInput
from viewfold.ssl.evaluate import (
    Split,
    class_ranks,
    class_subspaces,
    nearest_subspace,
    numerical_rank,
    subspace_affinity,
    subspace_residuals,
)

LABEL = torch.arange(12) % 3


def waves() -> Tensor:
    """Z_ia ~ sin(0.7 i a) + 0.25 cos(1.1 i + 0.3 a^2) of 12 rows and 5 columns, rows of length 1, float64."""
    i = torch.arange(1, 13, dtype=torch.float64)[:, None]
    a = torch.arange(1, 6, dtype=torch.float64)[None]
    z = torch.sin(0.7 * i * a) + 0.25 * torch.cos(1.1 * i + 0.3 * a**2)
    return functional.normalize(z, dim=1)


def test_ranks_have_the_tabulated_values() -> None:
    z = waves()
    shares = torch.linalg.svdvals(z).square().cumsum(0) / len(z)
    torch.testing.assert_close(shares, torch.tensor([0.3560, 0.6119, 0.8594, 0.9975, 1.0]).double(), rtol=0, atol=5e-5)
    assert numerical_rank(z) == 4
    assert class_ranks(z, LABEL) == {0: 3, 1: 3, 2: 2}
    assert numerical_rank(torch.zeros(3, 2)) == 0


def test_residuals_and_overlaps_have_the_tabulated_values() -> None:
    z = waves()
    subspaces = class_subspaces(z, LABEL, rank=2)
    residuals = subspace_residuals(z, subspaces)
    first = torch.tensor([0.1282881567, 0.5350841562, 0.9168671049], dtype=torch.float64)
    torch.testing.assert_close(residuals[0], first, rtol=0, atol=5e-11)
    assert residuals.argmin(dim=1).tolist() == [0, 1, 2, 0, 1, 2, 1, 0, 2, 0, 1, 2]
    overlap = subspace_affinity(subspaces)
    # Computed with 40 digits from the eigenvectors of the classes' covariances.
    table = torch.tensor([0.629042174692, 0.170475840514, 0.295680224304], dtype=torch.float64)
    torch.testing.assert_close(torch.stack([overlap[1, 0], overlap[2, 0], overlap[2, 1]]), table, rtol=0, atol=1e-12)
    torch.testing.assert_close(overlap.diagonal(), torch.ones(3).double())


def test_nearest_subspace_has_the_tabulated_accuracy() -> None:
    split = Split.of(waves(), LABEL)
    plain, balanced = nearest_subspace(split, split, rank=2)
    assert (plain.name, balanced.name) == ("subspace/top1", "subspace/top1_balanced")
    assert plain.value == pytest.approx(10 / 12)
    assert plain.low is not None
    assert plain.high is not None
    assert plain.low < plain.value < plain.high
    assert plain.chance == pytest.approx(4 / 12)


def test_rows_of_another_split_are_told_by_their_subspace() -> None:
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(8, 8)).Q
    label = torch.arange(40) % 3
    rows = torch.cat([torch.randn(1, 2) @ basis[:, 2 * one : 2 * one + 2].T for one in label.tolist()])
    known = Split.of(rows[:20], label[:20])
    asked = Split.of(-5 * rows[20:], label[20:].where(torch.arange(20) > 3, torch.tensor(-1)))  # some without a label
    plain, _ = nearest_subspace(known, asked, rank=2)
    assert (plain.value, plain.n) == (1.0, 16)
    subspaces = class_subspaces(known.features, known.label, rank=2)
    torch.testing.assert_close(subspace_affinity(subspaces), torch.eye(3).double(), rtol=0, atol=1e-10)


def test_a_class_of_few_rows_spans_what_it_has() -> None:
    subspaces = class_subspaces(torch.eye(4)[:3], torch.tensor([0, 1, 1]), rank=2)
    left = subspace_residuals(torch.tensor([[3.0, 4.0, 0.0, 1.0]]), subspaces)
    torch.testing.assert_close(left, torch.tensor([[math.sqrt(17), math.sqrt(10)]]).double())
    torch.testing.assert_close(subspace_affinity(subspaces), torch.eye(2).double())


@pytest.mark.parametrize("rank", [0, 5])
def test_a_rank_that_tells_nothing_apart_is_refused(rank: int) -> None:
    split = Split.of(waves(), LABEL)
    with pytest.raises(InvalidInput, match=r"1\.\.4"):
        nearest_subspace(split, split, rank=rank)
