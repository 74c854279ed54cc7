"""Mining of pairs: whose images are joined, what is counted of it, and that no shard and no label has a say in it."""

import json
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tiny import colour, draw, encode, write_shards

from viewfold.errors import InvalidInput
from viewfold.jobs.mine import MineConfig, Mined, mine, mine_vectors
from viewfold.jobs.mine_facts import chance, purity, summary
from viewfold.jobs.mine_graph import close, compact, intra_edges, supported
from viewfold.jobs.mine_nodes import TrackEncoder
from viewfold.pipeline.images import read_images
from viewfold.pipeline.indexer import index_shards
from viewfold.pipeline.manifest import ShardManifest
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing, save_encoder
from viewfold.ssl.mining import transitive_edges

SMALL = MineConfig(num_parents=3, min_parent=4, neighbours=4, clique=3, actors=1, batch_size=4)
Numbers = NDArray[np.int64]


def pairs(edges: Numbers) -> set[tuple[int, int]]:
    return {(int(a), int(b)) for a, b in edges}


def unit_rows(num_rows: int, dim: int = 6, seed: int = 0) -> NDArray[np.float32]:
    return unit(np.random.default_rng(seed).normal(size=(num_rows, dim)))


def unit(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def random_graph(num_nodes: int = 60, per_track: int = 5, num_inter: int = 30) -> tuple[Numbers, Numbers]:
    """Tracks, and inter edges between them."""
    track = np.arange(num_nodes) // per_track
    drawn = np.sort(np.random.default_rng(1).integers(num_nodes, size=(num_inter, 2)), axis=1)
    return track, np.unique(drawn[track[drawn[:, 0]] != track[drawn[:, 1]]], axis=0)


def cliques_by_hand(vectors: NDArray[np.float32], parent: Numbers, track: Numbers, k: int, size: int) -> Any:
    """Every pair of every group of images of one parent that all list one another, by trying all groups."""
    similar = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    lists = []
    for node in range(len(vectors)):
        others = np.flatnonzero((parent == parent[node]) & (parent >= 0) & (track != track[node]))
        lists.append(set(others[np.argsort(-similar[node, others])][:k].tolist()))
    found: set[tuple[int, int]] = set()
    for group in combinations(range(len(vectors)), size):
        if all(a in lists[b] and b in lists[a] for a, b in combinations(group, 2)):
            found |= set(combinations(group, 2))
    return found


@pytest.fixture(scope="module")
def mined() -> tuple[Mined, Numbers]:
    track = np.arange(40) // 2
    return mine_vectors(unit_rows(40), track, SMALL), track


def test_inter_edges_are_those_of_all_groups_tried_one_by_one(mined: tuple[Mined, Numbers]) -> None:
    graph, track = mined
    inter = graph.edges["inter"]
    assert pairs(inter) == cliques_by_hand(unit_rows(40), graph.parent, track, SMALL.neighbours, SMALL.clique)
    assert len(inter) > 10
    assert (track[inter[:, 0]] != track[inter[:, 1]]).all()
    assert (graph.parent[inter[:, 0]] == graph.parent[inter[:, 1]]).all()
    assert graph.parent.max() == 2


def test_no_pair_has_two_kinds_and_the_closure_is_the_product_of_matrices(mined: tuple[Mined, Numbers]) -> None:
    graph, _ = mined
    inter, intra, transitive = (pairs(edges) for edges in graph.edges.values())
    assert not inter & intra | inter & transitive | intra & transitive
    assert intra == {(a, a + 1) for a in range(0, 40, 2)}
    matrices = {}
    for name, edges in (("inter", inter), ("intra", intra)):
        matrices[name] = np.zeros((40, 40), dtype=int)
        for a, b in edges:
            matrices[name][a, b] = matrices[name][b, a] = 1
    near = np.eye(40, dtype=int) + matrices["intra"]
    reached = near @ matrices["inter"] @ near.T
    every = {(a, b) for a, b in combinations(range(40), 2) if reached[a, b]}
    assert transitive == every - inter - intra
    assert graph.transitive_found == len(transitive)


def test_images_of_a_deleted_parent_keep_their_track_and_get_no_inter_edge() -> None:
    axis = np.where(np.arange(34) < 30, 1, -1)[:, None] * np.eye(6)[0]
    graph = mine_vectors(
        unit(axis + 0.3 * unit_rows(34)),
        np.arange(34) // 2,
        MineConfig(num_parents=2, min_parent=5, neighbours=6, clique=2),
    )
    assert (graph.parent[30:] == -1).all()
    assert (graph.parent[:30] == 0).all()
    assert graph.parents_deleted == 1
    assert graph.edges["inter"].max() < 30
    assert {(30, 31), (32, 33)} <= pairs(graph.edges["intra"])


def test_nothing_is_left_to_chance_and_a_setting_to_change_is_named() -> None:
    track = np.arange(40) // 2
    with pytest.raises(InvalidInput, match=r"all 3 parents of 40 images have fewer than 41 images; lower min_parent"):
        mine_vectors(unit_rows(40), track, MineConfig(num_parents=3, min_parent=41))
    with pytest.raises(InvalidInput, match=r"no inter edge among 40 images of 20 tracks .* lower clique \(5\)"):
        mine_vectors(unit_rows(40), track, MineConfig(num_parents=3, min_parent=2, neighbours=4, clique=5))
    with pytest.raises(ValueError, match=r"clique must lie in 2\.\.5, got 6"):
        MineConfig(neighbours=4, clique=6)


def test_ends_of_a_track_are_its_first_and_last_image() -> None:
    track = np.array([0, 1, 0, 2, 0, 1])
    assert pairs(intra_edges(track, "ends")) == {(0, 4), (1, 5)}
    assert pairs(intra_edges(track, "all")) == {(0, 2), (0, 4), (2, 4), (1, 5)}
    assert intra_edges(np.arange(3), "ends").shape == (0, 2)


def test_support_counts_the_edges_between_two_tracks() -> None:
    track = np.array([0, 0, 1, 1, 2])
    inter = np.array([[0, 2], [0, 4], [1, 3], [2, 4], [3, 4]])
    assert pairs(supported(inter, track, 2)) == {(0, 2), (1, 3), (2, 4), (3, 4)}
    assert pairs(supported(inter, track, 1)) == pairs(inter)
    assert supported(inter, track, 3).shape == (0, 2)


def test_a_closure_in_parts_is_the_closure() -> None:
    track, inter = random_graph()
    for intra in (intra_edges(track, "all"), intra_edges(track, "ends")):
        whole = transitive_edges(inter, intra)
        for at_once in (1, 60, 1 << 22):
            found = close(inter, intra, track, most=10**6, seed=0, at_once=at_once)
            np.testing.assert_array_equal(found.edges, whole)
            assert found.found == len(whole)


def test_a_sample_of_the_closure_is_uniform_and_does_not_depend_on_the_parts() -> None:
    track, inter = random_graph(30, 5, 8)
    intra = intra_edges(track, "all")
    whole = transitive_edges(inter, intra)
    place = {pair: number for number, pair in enumerate(map(tuple, whole.tolist()))}
    kept = np.zeros(len(whole))
    for seed in range(300):
        found = close(inter, intra, track, most=50, seed=seed)
        assert found.found == len(whole)
        kept[[place[pair] for pair in map(tuple, found.edges.tolist())]] += 1
    assert kept.sum() == 300 * 50
    share = 50 / len(whole)
    assert np.abs(kept / 300 - share).max() < 4.5 * np.sqrt(share * (1 - share) / 300)
    one, many = (close(inter, intra, track, most=50, seed=0, at_once=at_once).edges for at_once in (1 << 22, 1))
    np.testing.assert_array_equal(one, many)


def test_components_have_unit_length_and_none_are_made_of_too_few() -> None:
    vectors = unit_rows(30)
    np.testing.assert_allclose(np.linalg.norm(compact(vectors, 3, seed=0), axis=1), 1, rtol=1e-5)
    assert compact(vectors, 3, seed=0).shape == (30, 3)
    assert compact(vectors, 6, seed=0) is vectors
    assert compact(vectors, 0, seed=0) is vectors


def test_chance_is_the_share_of_all_pairs_of_different_tracks() -> None:
    rng = np.random.default_rng(0)
    label, track = rng.integers(-1, 3, size=30), rng.integers(8, size=30)
    apart = [(a, b) for a, b in combinations(range(30), 2) if track[a] != track[b] and min(label[a], label[b]) >= 0]
    expected = np.mean([label[a] == label[b] for a, b in apart])
    assert chance(label, track) == pytest.approx(expected, abs=1e-12)
    assert chance(np.full(30, -1), track) is None


def test_purity_counts_labelled_edges_and_resamples_groups() -> None:
    label = np.array([0, 0, 0, 1, 1, -1])
    none = np.empty((0, 2), dtype=np.int64)
    edges = {"inter": np.array([[0, 1], [0, 3], [1, 2], [3, 5]]), "intra": none, "transitive": np.array([[0, 1]])}
    found = purity(edges, label, np.arange(6), seed=0)
    assert found["inter"]["share"] == pytest.approx(2 / 3)
    assert found["inter"]["labelled"] == 3
    assert 0 <= found["inter"]["low"] <= 2 / 3 <= found["inter"]["high"] <= 1
    assert found["intra"] == {"share": None, "low": None, "high": None, "labelled": 0}
    assert purity(edges, label, np.zeros(6, dtype=np.int64), seed=0)["inter"]["low"] is None


def test_an_interval_over_groups_is_wider_than_one_over_images() -> None:
    track, inter = random_graph(200, 10, 2000)
    label = np.random.default_rng(2).integers(2, size=20)[track]  # all images of a track share a label
    edges = {"inter": inter, "intra": inter[:0], "transitive": inter[:0]}
    widths = []
    for group in (track, np.arange(200)):
        found = purity(edges, label, group, seed=0)["inter"]
        widths.append(found["high"] - found["low"])
    assert widths[0] > 2 * widths[1]


def tiny_samples() -> list[Mapping[str, bytes]]:
    """Objects of several images, single images of recorded tracks, and single images alone; the last has no label."""
    rng = np.random.default_rng(0)
    samples: list[Mapping[str, bytes]] = []
    for number in range(20):
        label = number % 3
        views = 3 if number < 8 else 1
        sample = {}
        for view in range(views):
            ground = colour(float(rng.uniform()), 0.4)
            picture = draw(label, rng.uniform(-0.4, 0.4, 3), ground=ground, ink=colour(number / 20, 0.9), size=32)
            sample[f"thing-{number:02d}.{f'{view:02d}.' if views > 1 else ''}png"] = encode(picture, "PNG")
        about: dict[str, Any] = {"label": f"class-{label}"} if number < 19 else {}
        if 8 <= number < 16:
            about["track"] = f"clip-{number // 2}"
        samples.append({**sample, f"thing-{number:02d}.json": json.dumps(about).encode()})
    return samples


def saved_encoder(folder: Path) -> Path:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(backbone="resnet-small", preprocessing=Preprocessing(image_size=32)))
    save_encoder(encoder, folder, lineage={"seed": 0})
    return folder


def test_nodes_have_the_direction_of_the_encoders_features_and_numbers_must_be_finite(tmp_path: Path) -> None:
    manifest = index_shards(write_shards(tmp_path, "plain", tiny_samples()), tmp_path)
    encode_rows = TrackEncoder(saved_encoder(tmp_path / "encoder"), manifest, "invariant")
    block = encode_rows([0, 8, 19])
    (encoded,) = block.encoded
    (batch,) = read_images(manifest, [0, 8, 19], image_size=32, batch_size=9)
    expected = encode_rows.encoder.encode(batch.images).all
    np.testing.assert_allclose(encoded.vectors, expected / expected.norm(dim=1, keepdim=True), atol=1e-6)
    assert (encoded.rows, encoded.members) == ([0, 0, 0, 8, 19], [0, 1, 2, 0, 0])
    assert block.recorded == {8: "clip-4"}
    torch.nn.init.constant_(next(encode_rows.encoder.parameters()), torch.inf)
    with pytest.raises(InvalidInput, match=r"plain-000000/thing-00\.00: the encoder's features are not finite"):
        encode_rows([0])


class Outcome:
    """What one mining wrote."""

    def __init__(self, facts: dict[str, Any], manifest: ShardManifest, folder: Path) -> None:
        self.facts, self.manifest, self.folder = facts, manifest, folder
        self.nodes = pq.read_table(folder / "nodes.parquet").to_pydict()
        self.edges = pq.read_table(folder / "edges.parquet").to_pydict()
        self.names = [key.partition("/")[2] for key in self.nodes["key"]]

    def by_name(self) -> list[tuple[str, str, str]]:
        """Edges by the keys within the shards."""
        columns = (self.edges[name] for name in ("a", "b", "kind"))
        return [(self.names[a], self.names[b], kind) for a, b, kind in zip(*columns, strict=True)]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> list[Outcome]:
    """The same samples in order, and shuffled over shards of another size, mined by the same untrained encoder."""
    root = tmp_path_factory.mktemp("mine")
    encoder = saved_encoder(root / "encoder")
    config = MineConfig(num_parents=2, min_parent=4, neighbours=6, clique=3, actors=1, batch_size=8)
    samples, found = tiny_samples(), []
    shuffled = [samples[place] for place in np.random.default_rng(3).permutation(len(samples))]
    for name, order, per_shard in (("plain", samples, 20), ("shuffled", shuffled, 7)):
        manifest = index_shards(write_shards(root / name, name, order, per_shard=per_shard), root / name)
        facts = mine(encoder, manifest, config, root / f"{name}-mined")
        found.append(Outcome(facts, manifest, root / f"{name}-mined"))
    return found


@pytest.mark.heavy
def test_shards_and_their_order_have_no_say(outcomes: list[Outcome]) -> None:
    plain, shuffled = outcomes
    assert plain.names == shuffled.names == sorted(plain.names)
    assert plain.by_name() == shuffled.by_name()
    assert plain.nodes["parent"] == shuffled.nodes["parent"]
    assert plain.nodes["row"] != shuffled.nodes["row"]
    for outcome in outcomes:
        keys = map(outcome.manifest.image_key, outcome.nodes["row"], outcome.nodes["member"])
        assert outcome.nodes["key"] == list(keys)


@pytest.mark.heavy
def test_tracks_are_samples_of_several_images_and_tracks_that_are_recorded(outcomes: list[Outcome]) -> None:
    track = outcomes[0].nodes["track"]
    objects = [number for number in range(8) for _ in range(3)]
    clips = [8, 8, 9, 9, 10, 10, 11, 11]
    assert track == [*objects, *clips, 12, 13, 14, 15]


@pytest.mark.heavy
def test_the_facts_are_those_of_the_tables(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        facts, track, parent = outcome.facts, outcome.nodes["track"], outcome.nodes["parent"]
        assert json.loads((outcome.folder / "mining.json").read_text()) == facts
        kinds = outcome.edges["kind"]
        assert facts["counts"] == {kind: kinds.count(kind) for kind in ("inter", "intra", "transitive")}
        assert facts["counts"]["inter"] > 0
        assert facts["counts"]["transitive"] == facts["transitive_found"] > 0
        for a, b, kind in zip(*(outcome.edges[name] for name in ("a", "b", "kind")), strict=True):
            assert a < b
            assert (track[a] == track[b]) == (kind == "intra")
            assert kind != "inter" or parent[a] == parent[b] >= 0
        assert (facts["nodes"], facts["tracks"]) == (36, 16)
        assert facts["parents"] == len(set(parent) - {-1})
        assert facts["manifest_hash"] == outcome.manifest.hash
        assert facts["purity"]["intra"]["labelled"] == 24 + 4  # three pairs of each object, one of each clip
        assert facts["purity"]["intra"]["share"] == pytest.approx(24 / 28)
        assert facts["transitive_share"] == pytest.approx(7 / 9)


@pytest.mark.heavy
def test_the_picture_and_the_summary_name_every_kind(outcomes: list[Outcome]) -> None:
    outcome = outcomes[0]
    with Image.open(outcome.folder / "pairs.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000
    text = summary(outcome.facts)
    assert "36 images in 16 tracks" in text
    for kind, number in outcome.facts["counts"].items():
        assert f"{kind:12}{number:12,}" in text
    assert sorted(path.name for path in outcome.folder.iterdir()) == [
        "edges.parquet", "mining.json", "nodes.parquet", "pairs.png",
    ]  # fmt: skip
