"""Coding length against its closed form, and the number of clusters it finds."""

import math

import numpy as np
import pytest
import torch

from viewfold.ssl.evaluate import best_num_clusters, coding_length, spectral_clusterings


def test_orthogonal_clusters_have_the_closed_form() -> None:
    # Four times +-e_i: every cluster of d/k axes has covariance (n_j/r) I on them, with r = d/k.
    d, k, eps_sq = 12, 3, 0.1
    z = torch.cat([torch.eye(d), -torch.eye(d)]).repeat(2, 1)
    label, n, r = np.arange(len(z)) % d // (d // k), len(z), d // k
    expected = k * (n / k + d) / 2 * r * math.log(1 + d / (r * eps_sq)) + n * math.log(k)
    assert coding_length(z, label, eps_sq=eps_sq) == pytest.approx(expected, rel=1e-12)
    whole = (n + d) / 2 * d * math.log(1 + 1 / eps_sq)
    assert coding_length(z, np.zeros(n, dtype=int), eps_sq=eps_sq) == pytest.approx(whole, rel=1e-12)
    renamed = torch.from_numpy(7 - 3 * label)
    assert coding_length(z, renamed, eps_sq=eps_sq) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("clusters", [3, 5])
def test_it_finds_the_number_of_orthogonal_subspaces(clusters: int) -> None:
    rng = np.random.default_rng(clusters)
    z = np.zeros((60 * clusters, 20))
    for number in range(clusters):
        z[60 * number : 60 * (number + 1), 4 * number : 4 * number + 4] = rng.standard_normal((60, 4))
    z += 0.1 * rng.standard_normal(z.shape)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    clusterings = spectral_clusterings(np.exp(np.abs(z @ z.T) / 0.1), [2, 3, 4, 5, 6, 9])
    best, lengths = best_num_clusters(torch.from_numpy(z), clusterings)
    assert best == clusters
    assert lengths[best] == coding_length(torch.from_numpy(z), clusterings[best]) == min(lengths.values())


def test_of_equal_lengths_the_fewest_clusters_count() -> None:
    same = np.repeat([0, 1], 5)
    assert best_num_clusters(torch.eye(10), {4: same, 3: same})[0] == 3
