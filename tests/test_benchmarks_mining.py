"""The suite `mining` compares like with like, at sizes that take no time."""

import numpy as np
import pytest

from benchmarks.mining import PEERS, PER_GROUP, Scale, clustered_vectors, cost_of_mining, rules_compared

TINY = Scale(small=200, large=800, dim=16)


@pytest.mark.parametrize("peer", PEERS)
def test_both_sides_find_the_same_edges(peer: str) -> None:
    assert len(rules_compared(peer, TINY, repeats=1).peer_s) == 1  # it holds the edges against each other first


def test_a_run_tells_its_seconds_its_memory_and_its_edges() -> None:
    cost = cost_of_mining(TINY.large, TINY)
    assert cost.seconds > 0
    assert cost.peak_bytes >= cost.libraries_bytes > 0
    assert cost.edges["intra"] == TINY.large // 2
    assert cost.edges["transitive"] > cost.edges["inter"] > 0


def test_vectors_are_of_unit_length_and_nearest_within_their_group() -> None:
    vectors = clustered_vectors(25_000, 32)  # more than are made at a time
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    last = vectors[-10 * PER_GROUP :]
    nearest = np.argsort(-(last @ last.T), axis=1)[:, 1] // PER_GROUP
    assert (nearest == np.arange(len(last)) // PER_GROUP).mean() > 0.95
