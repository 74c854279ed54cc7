"""Spectral clustering against graphs whose spectrum is known, and its neighbour affinities against the dense ones."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, eye_array, kron

from viewfold.errors import InvalidInput
from viewfold.ssl.evaluate import clustering_scores, k_means, knn_affinity, spectral_clusterings, spectral_clusters

ETA = 0.1


def lines(*, rows: int = 40, clusters: int = 4, dim: int = 2, noise: float = 0.05) -> tuple[NDArray[Any], NDArray[Any]]:
    """Unit rows around `clusters` random subspaces of `dim` dimensions in 12, and which one each belongs to."""
    rng = np.random.default_rng(0)
    bases = [np.linalg.qr(rng.standard_normal((12, dim)))[0] for _ in range(clusters)]
    z = np.concatenate([rng.standard_normal((rows, dim)) @ basis.T for basis in bases])
    z = z / np.linalg.norm(z, axis=1, keepdims=True) + noise * rng.standard_normal(z.shape)
    return z / np.linalg.norm(z, axis=1, keepdims=True), np.repeat(np.arange(clusters), rows)


def softmax_affinity(z: NDArray[Any]) -> NDArray[Any]:
    """exp(|z z'| / eta) without the diagonal, rows made to sum to 1, symmetrised."""
    weights = np.exp(np.abs(z @ z.T) / ETA)
    np.fill_diagonal(weights, 0)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray((weights + weights.T) / 2)


def blocks(*sizes: int) -> NDArray[Any]:
    """Complete graphs of these sizes, with nothing between them."""
    of_row = np.repeat(np.arange(len(sizes)), sizes)
    return np.asarray(of_row[:, None] == of_row[None, :], dtype=float)


def test_it_finds_the_lines_that_k_means_cannot() -> None:
    z, truth = lines(dim=1)
    assert clustering_scores(spectral_clusters(softmax_affinity(z), 4), truth).acc == 1.0
    assert clustering_scores(k_means(z, 4), truth).acc < 0.8  # a line has two ends


def test_order_and_signs_of_the_codes_do_not_matter() -> None:
    z, truth = lines()
    rng = np.random.default_rng(1)
    order = rng.permutation(len(z))
    signs = rng.choice([-1.0, 1.0], size=(len(z), 1))
    found = spectral_clusters(softmax_affinity(z), 4)
    moved = spectral_clusters(torch.from_numpy(softmax_affinity((signs * z)[order])), 4)
    assert clustering_scores(moved, found[order]).ari == 1.0
    assert clustering_scores(found, truth).acc > 0.95


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_tensor_from_a_training_is_taken_as_it_is(dtype: torch.dtype) -> None:
    affinity = torch.from_numpy(blocks(3, 2)).to(dtype).requires_grad_()
    assert spectral_clusters(affinity, 2).tolist() == [0, 0, 0, 1, 1]


def test_affinities_of_all_neighbours_are_the_dense_ones() -> None:
    z, _ = lines(rows=10)
    kernel = np.abs(z @ z.T)
    np.fill_diagonal(kernel, -1)
    rows = np.argsort(-kernel, axis=1)[:, :-1]
    table = np.take_along_axis(kernel, rows, axis=1).astype(np.float32)
    padded = np.pad(rows, ((0, 0), (0, 2)), constant_values=-1)
    scores = np.pad(table, ((0, 0), (0, 2)), constant_values=-np.inf)
    sparse = knn_affinity(padded, scores, eta=ETA)
    np.testing.assert_allclose(sparse.toarray(), softmax_affinity(z), rtol=1e-5)
    assert spectral_clusters(sparse, 4).tolist() == spectral_clusters(softmax_affinity(z), 4).tolist()


def test_weights_survive_any_temperature() -> None:
    rows, scores = np.array([[1, 2], [0, 2], [-1, -1]]), np.array([[0.9, 0.1], [0.9, 0.2], [-np.inf] * 2], np.float32)
    expected = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(knn_affinity(rows, scores, eta=1e-3).toarray(), expected, atol=1e-12)


def test_a_large_sparse_graph_is_cut_where_its_spectrum_says() -> None:
    # A cube in 11 dimensions with a weight for each direction: eigenvectors are products of the signs of its bits, with
    # eigenvalues sum(+-weight) / sum(weight). The two weakest directions are cut first.
    weights = [1.0, 0.1, 1.1, 1.2, 0.15, *np.linspace(1, 1.5, 6)]
    flip, graph = csr_array(np.array([[0.0, 1.0], [1.0, 0.0]])), csr_array((2048, 2048))
    for place, weight in enumerate(weights):
        graph = graph + weight * kron(kron(eye_array(2 ** (10 - place)), flip), eye_array(2**place))
    bit = (np.arange(2048)[:, None] >> np.arange(11)) & 1
    found = spectral_clusterings(graph, [2, 4])
    assert clustering_scores(found[2], bit[:, 1]).ari == 1.0
    assert clustering_scores(found[4], 2 * bit[:, 1] + bit[:, 4]).ari == 1.0


def test_one_decomposition_gives_what_each_number_gives_alone() -> None:
    z, _ = lines()
    affinity = softmax_affinity(z)
    for number, found in spectral_clusterings(affinity, [2, 4, 7]).items():
        assert clustering_scores(found, spectral_clusters(affinity, number)).ari == 1.0


def test_connected_parts_are_clusters() -> None:
    exactly = spectral_clusters(blocks(9, 7, 5), 3)
    assert exactly.tolist() == [0] * 9 + [1] * 7 + [2] * 5
    fewer = spectral_clusters(blocks(20, 6, 5, 4), 3)  # the smallest two share the last cluster, which is the second
    assert fewer.tolist() == [0] * 20 + [2] * 6 + [1] * 9


def test_a_connected_part_is_divided_where_there_are_clusters_left() -> None:
    linked = blocks(8, 8, 6)
    linked[:8, 8:16] = linked[8:16, :8] = 0.01
    assert spectral_clusters(linked, 3).tolist() == [0] * 8 + [1] * 8 + [2] * 6


def test_crumbs_and_rows_without_links_take_no_cluster() -> None:
    z, truth = lines(rows=30)
    affinity = np.zeros((len(z) + 3, len(z) + 3))
    affinity[:-3, :-3] = softmax_affinity(z)
    affinity[-2, -1] = affinity[-1, -2] = 1  # a pair of its own; the row before it is linked to nothing
    found = spectral_clusters(affinity, 4)
    assert clustering_scores(found[:-3], truth).acc > 0.95
    assert found[-3:].tolist() == [0, 0, 0]
    assert spectral_clusters(np.eye(5), 3).tolist() == [0] * 5


@pytest.mark.parametrize(
    ("affinity", "number", "says"),
    [
        (np.ones((2, 3)), 1, "square"),
        (-np.ones((3, 3)), 1, "at least 0"),
        (np.full((3, 3), np.nan), 1, "finite"),
        (np.ones((3, 3)), 4, "1..3, got 4"),
        (np.ones((3, 3)), 0, "1..3, got 0"),
    ],
)
def test_what_is_no_affinity_is_refused(affinity: NDArray[Any], number: int, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        spectral_clusters(affinity, number)
