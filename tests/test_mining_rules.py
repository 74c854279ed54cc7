"""Mining's rules against the worked example of their description, plain enumeration, matrices and NetworkX."""

from collections.abc import Iterable
from itertools import combinations

import networkx as nx  # type: ignore[import-untyped]
import numpy as np
import pytest
from numpy.typing import NDArray

from viewfold.retrieval import neighbour_table
from viewfold.ssl.mining import (
    clique_edges,
    edge_purity,
    mutual_cliques,
    parent_edges,
    parents_of,
    track_edges,
    transitive_edges,
    without_small_parents,
)

Ints = NDArray[np.int64]


def edge_set(edges: Ints) -> set[tuple[int, int]]:
    """The edges, once it is certain that they are a set in the form that all functions give."""
    assert edges.shape == (len(edges), 2)
    assert (edges[:, 0] < edges[:, 1]).all()
    listed = [(a, b) for a, b in edges.tolist()]
    assert listed == sorted(set(listed))
    return set(listed)


def edges_of(pairs: Iterable[tuple[int, int]]) -> Ints:
    return np.array(sorted({(min(pair), max(pair)) for pair in pairs}), dtype=np.int64).reshape(-1, 2)


def random_table(num_rows: int, k: int, seed: int) -> Ints:
    """Lists of nearby rows, so that many are mutual; one in eight is short."""
    random = np.random.default_rng(seed)
    table = np.full((num_rows, k), -1)
    reach = k // 2 + 1
    for row in range(num_rows):
        near = [other for other in range(row - reach, row + reach + 1) if 0 <= other < num_rows and other != row]
        length = min(len(near), k if random.random() < 0.875 else int(random.integers(k)))
        table[row, :length] = random.permutation(near)[:length]
    return table


def random_edges(num_nodes: int, count: int, seed: int) -> Ints:
    pairs = np.random.default_rng(seed).integers(0, num_nodes, (count, 2)).tolist()
    return edges_of((a, b) for a, b in pairs if a != b)


def cliques_by_networkx(table: Ints, size: int) -> list[list[int]]:
    """The same rule in the words of another library."""
    lists = nx.DiGraph()
    lists.add_nodes_from(range(len(table)))
    lists.add_edges_from((row, other) for row, others in enumerate(table.tolist()) for other in others if other >= 0)
    mutual = lists.to_undirected(reciprocal=True)
    return sorted(sorted(clique) for clique in nx.enumerate_all_cliques(mutual) if len(clique) == size)


def closure_by_enumeration(inter: Ints, intra: Ints) -> set[tuple[int, int]]:
    partners: dict[int, set[int]] = {}
    for a, b in intra.tolist():
        partners.setdefault(a, set()).add(b)
        partners.setdefault(b, set()).add(a)
    pairs = {
        (min(one, other), max(one, other))
        for a, b in inter.tolist()
        for one in {a, *partners.get(a, ())}
        for other in {b, *partners.get(b, ())}
        if one != other
    }
    return pairs - edge_set(inter) - edge_set(intra)


def test_the_example_of_six_points_on_a_line() -> None:
    points = np.array([0, 1, 2.1, 10, 11, 30])
    distance = np.abs(points[:, None] - points)
    table = np.argsort(distance, axis=1, kind="stable")[:, 1:3]
    assert mutual_cliques(table, 2).tolist() == [[0, 1], [0, 2], [1, 2], [3, 4]]
    assert mutual_cliques(table, 3).tolist() == [[0, 1, 2]]  # 5 is in nobody's list


def test_the_example_of_three_tracks() -> None:
    intra = track_edges(np.array([0, 1, 2, 0, 1, 2]))
    assert edge_set(intra) == {(0, 3), (1, 4), (2, 5)}
    inter = np.array([[0, 1], [1, 2]])
    new = edge_set(transitive_edges(inter, intra))
    assert new == {(0, 4), (1, 3), (1, 5), (2, 4)} | {(3, 4), (4, 5)}  # (0, 2) would take two inter edges
    assert len(new) + len(inter) + len(intra) == 11
    more = edge_set(transitive_edges(np.array([[0, 1], [0, 2], [1, 2]]), intra))
    assert more == {(0, 4), (0, 5), (1, 3), (1, 5), (2, 3), (2, 4), (3, 4), (3, 5), (4, 5)}


def test_a_clique_of_nodes_with_a_partner_each_yields_three_pairs_for_each_of_its_own() -> None:
    for size in (2, 3, 4, 7):
        inter = clique_edges(np.arange(size)[None])
        intra = track_edges(np.arange(2 * size) % size)
        assert len(transitive_edges(inter, intra)) == 3 * size * (size - 1) // 2


@pytest.mark.parametrize("seed", range(4))
def test_cliques_are_those_that_networkx_finds(seed: int) -> None:
    table = random_table(120, 9, seed)
    for size in (2, 3, 4, 5, 6):
        expected = cliques_by_networkx(table, size)
        assert mutual_cliques(table, size).tolist() == expected
        assert expected or size > 5


@pytest.mark.parametrize("seed", range(4))
def test_the_closure_is_that_of_the_matrices_and_of_enumeration(seed: int) -> None:
    num_nodes = 60
    track = np.random.default_rng(seed).integers(0, 25, num_nodes)
    intra = track_edges(track)
    assert edge_set(intra) == {pair for pair in combinations(range(num_nodes), 2) if len({*track[[*pair]]}) == 1}
    inter = random_edges(num_nodes, 40, seed)  # some of them inside of a track, which mining never makes
    new = transitive_edges(inter, intra)
    assert edge_set(new) == closure_by_enumeration(inter, intra)
    e, n = np.zeros((2, num_nodes, num_nodes), dtype=int)
    for matrix, edges in ((e, inter), (n, intra)):
        matrix[edges[:, 0], edges[:, 1]] = matrix[edges[:, 1], edges[:, 0]] = 1
    reach = np.eye(num_nodes, dtype=int) + n
    matrix = np.triu((reach @ e @ reach.T > 0) & (e == 0) & (n == 0), 1)
    assert new.tolist() == np.argwhere(matrix).tolist()


def test_many_copies_of_a_graph_have_its_cliques_and_its_closure_in_each() -> None:
    table = random_table(60, 10, seed=0)
    copies = 250  # more candidates than are tested at a time
    shift = 60 * np.arange(copies)[:, None, None]
    cliques = mutual_cliques(table, 4)
    many = mutual_cliques(np.where(table >= 0, table + shift, -1).reshape(-1, 10), 4)
    assert np.array_equal(many, (cliques + shift).reshape(-1, 4))
    assert np.array_equal(clique_edges(many), (clique_edges(cliques) + shift).reshape(-1, 2))
    track = np.arange(60) % 8
    inter, intra = random_edges(60, 60, seed=0), track_edges(track)
    far = track_edges((track + 8 * np.arange(copies)[:, None]).ravel())
    assert np.array_equal(far, (intra + shift).reshape(-1, 2))
    new = transitive_edges((inter + shift).reshape(-1, 2), far)
    assert np.array_equal(new, (transitive_edges(inter, intra) + shift).reshape(-1, 2))


def test_numbering_the_rows_otherwise_renames_the_cliques_and_changes_none() -> None:
    table = random_table(80, 8, seed=1)
    new_number = np.random.default_rng(0).permutation(80)
    renamed = np.empty_like(table)
    renamed[new_number] = np.where(table >= 0, new_number[table], -1)
    expected = sorted(np.sort(new_number[mutual_cliques(table, 3)], axis=1).tolist())
    assert mutual_cliques(renamed, 3).tolist() == expected


def test_nothing_comes_of_nothing() -> None:
    none = np.empty((0, 2), dtype=np.int64)
    for table in (np.empty((0, 10), dtype=np.int64), np.full((5, 3), -1), np.array([[1], [2], [0]])):
        for size in (2, 4):
            assert mutual_cliques(table, size).shape == (0, size)
    assert clique_edges(np.empty((0, 4), dtype=np.int64)).shape == (0, 2)
    assert track_edges(np.empty(0, dtype=np.int64)).shape == (0, 2)
    assert track_edges(np.arange(5)).shape == (0, 2)
    for inter, intra in ((none, none), (none, np.array([[0, 1]])), (np.array([[0, 1]]), none)):
        assert transitive_edges(inter, intra).shape == (0, 2)


def test_purity_is_the_share_of_equal_labels_among_edges_with_two() -> None:
    edges = np.array([[0, 1], [0, 2], [1, 3], [2, 4]])
    assert edge_purity(edges, np.array([0, 0, 1, -1, 1])) == pytest.approx(2 / 3)  # node 3 has no label
    assert edge_purity(edges, np.full(5, -1)) is None


def test_nodes_of_small_parents_have_none() -> None:
    parent = np.array([3, 0, 3, 5, 5, 5, 0, -1, -1, -1])
    assert without_small_parents(parent, 3).tolist() == [-1, -1, -1, 0, 0, 0, -1, -1, -1, -1]
    assert without_small_parents(parent, 2).tolist() == [1, 0, 1, 2, 2, 2, 0, -1, -1, -1]


@pytest.fixture
def nodes() -> tuple[NDArray[np.float32], Ints, Ints]:
    """Unit vectors, the parent of each with -1 among them, and tracks of two."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(40, 8)).repeat(6, axis=0) + 0.3 * random.normal(size=(240, 8))
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit, random.integers(-1, 4, 240), random.permutation(240) // 2


def test_inter_edges_are_the_rules_inside_of_each_parent(nodes: tuple[NDArray[np.float32], Ints, Ints]) -> None:
    vectors, parent, track = nodes
    found = [parent_edges(one, search=neighbour_table, k=5, size=3) for one in parents_of(vectors, parent, track)]
    # The same by a full table of scores over all nodes.
    score = (vectors.astype(float) @ vectors.T).round(6)
    score[(parent[:, None] != parent) | (parent < 0) | (track[:, None] == track)] = -np.inf
    order = np.argsort(-score, axis=1, kind="stable")[:, :5]
    table = np.where(np.take_along_axis(score, order, 1) > -np.inf, order, -1)
    inter = {pair for clique in cliques_by_networkx(table, 3) for pair in combinations(clique, 2)}
    assert len(inter) > 20
    assert set().union(*(edge_set(edges) for edges in found)) == inter
    assert sum(map(len, found)) == len(inter)


def test_each_parent_has_its_own_nodes_in_order(nodes: tuple[NDArray[np.float32], Ints, Ints]) -> None:
    vectors, parent, track = nodes
    parents = list(parents_of(vectors, parent, track))
    assert [one.nodes.tolist() for one in parents] == [np.flatnonzero(parent == p).tolist() for p in range(4)]
    assert all(np.array_equal(one.vectors, vectors[one.nodes]) for one in parents)
    assert all(np.array_equal(one.track, track[one.nodes]) for one in parents)
