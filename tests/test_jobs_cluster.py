"""The cluster stage: every stored image in a cluster, what is measured of the clusters, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tiny import write_images, write_objects

from viewfold.config import parse
from viewfold.errors import InvalidInput
from viewfold.jobs.cluster import ClusterConfig, _nearest_subspace, _overlap, affinity, cluster
from viewfold.jobs.cluster_plots import _heat_figure
from viewfold.jobs.cluster_rows import read_rows
from viewfold.pipeline.indexer import index_shards
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing, save_encoder
from viewfold.ssl.evaluate import Split, coding_length
from viewfold.ssl.kept_head import save_head
from viewfold.ssl.subspace_head import SubspaceHead, SubspaceHeadConfig

QUICK = ClusterConfig(candidates=(2, 3, 6, 500), neighbours=8, subspace_rank=2)


def saved(folder: Path, *, heads: str | None = None, equivariant_dim: int = 0) -> Path:
    """An untrained encoder of 16 px images, with a subspace head on its invariant part unless `heads` is None."""
    torch.manual_seed(0)
    preprocessing = Preprocessing(image_size=16, grey=True)
    config = EncoderConfig(backbone="resnet-small", preprocessing=preprocessing, equivariant_dim=equivariant_dim)
    encoder = Encoder(config).eval()
    identity = save_encoder(encoder, folder, lineage={})
    if heads is not None:
        plan = {"part": "invariant", "part_dim": encoder.dim, "hidden_widths": [8], "dim": 6, "heads": heads}
        head = SubspaceHead(parse(SubspaceHeadConfig, plan))
        weights = {f"head.{name}": value for name, value in head.state_dict().items()}
        save_head(head.config, weights, folder, encoder_id=identity)
    return folder


@pytest.mark.parametrize("neighbours", [5, 100])
def test_links_are_those_of_the_largest_kernel_values(neighbours: int) -> None:
    rng = np.random.default_rng(0)
    c = rng.standard_normal((30, 4)).astype(np.float32)
    c = np.concatenate([c / np.linalg.norm(c, axis=1, keepdims=True), np.eye(4, dtype=np.float32)])  # some orthogonal
    for kind, kernel in (("abs", np.abs(c @ c.T)), ("inner", c @ c.T)):
        np.fill_diagonal(kernel, -np.inf)
        floor = np.sort(kernel, axis=1)[:, -min(neighbours, 33)][:, None]
        weights = np.where(kernel >= floor, np.exp(kernel.astype(float) / 0.2), 0)
        weights /= weights.sum(axis=1, keepdims=True)
        found = affinity(c, neighbours=neighbours, eta=0.2, kernel=kind).toarray()
        np.testing.assert_allclose(found, (weights + weights.T) / 2, rtol=1e-4, atol=1e-12)


def test_images_without_labels_are_clustered_all_the_same(tmp_path: Path) -> None:
    shards = write_objects(tmp_path / "shards", objects=6, views=4, unlabelled=6)
    manifest = index_shards(shards, tmp_path / "data")
    encoder = saved(tmp_path / "encoder", heads="two")
    earlier, opened = tmp_path / "out" / "clusters.parquet", tmp_path / "opened"
    earlier.parent.mkdir()
    earlier.write_bytes(b"earlier")
    opened.hardlink_to(earlier)
    body = cluster(encoder, manifest, QUICK, tmp_path / "out")
    assert opened.read_bytes() == b"earlier"  # the table is put in its place, not written over by and by
    assert json.loads((tmp_path / "out" / "clusters.json").read_text()) == body
    assert (body["measures"], list(body["skipped"])) == ({}, ["measures"])
    table = pq.read_table(tmp_path / "out" / "clusters.parquet").to_pydict()
    assert table["key"] == [manifest.image_key(row, member) for row in range(6) for member in range(4)]
    assert table["label"] == [None] * 24
    assert np.bincount(table["cluster"]).tolist() == body["cluster_sizes"]
    assert sorted(body["cluster_sizes"], reverse=True) == body["cluster_sizes"]
    # The number that was taken codes the features in the fewest nats, and 500 clusters of 24 images were left out.
    lengths = {int(number): nats for number, nats in body["coding_length_nats"].items()}
    assert list(lengths) == [2, 3, 6]
    assert body["num_clusters"] == min(lengths, key=lambda number: lengths[number])
    rows = read_rows(encoder, manifest, part="all")
    assert rows.source == body["source"] == "subspace head"
    assert lengths[body["num_clusters"]] == pytest.approx(coding_length(rows.z, table["cluster"]), rel=1e-6)
    assert not torch.equal(rows.z, rows.c)
    for name in ("clusters.png", "clusters-sheet.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert min(picture.size) > 100


@pytest.mark.slow
def test_clusters_are_measured_beside_simpler_ones(tmp_path: Path) -> None:
    manifest = index_shards(write_images(tmp_path / "shards", samples=36), tmp_path / "data")
    config = ClusterConfig(num_clusters=3, candidates=(), neighbours=8, subspace_rank=2)
    body = cluster(saved(tmp_path / "encoder"), manifest, config, tmp_path / "out")
    assert body["source"] == "invariant features"
    assert list(body["coding_length_nats"]) == ["3"]
    clusterings = ("spectral", "k-means on Z", "k-means on features", "k-means on pixels")
    assert list(body["measures"]) == [*clusterings, "nearest subspace"]
    for name in clusterings:
        assert [one["name"] for one in body["measures"][name]] == [
            f"clusters/{x}" for x in ("acc", "nmi", "ari", "ami")
        ]
        assert all(one["n"] == 36 and one["low"] is not None for one in body["measures"][name])
    # Z is the normalised features here, and k-means is the same.
    assert body["measures"]["k-means on Z"] == body["measures"]["k-means on features"]
    assert body["measures"]["nearest subspace"][0]["n"] == 18  # half of the groups ask
    assert set(body["geometry"]["class_ranks"]) == {"class-0", "class-1", "class-2"}
    assert len(body["geometry"]["cluster_ranks"]) == 3
    assert cluster(saved(tmp_path / "again"), manifest, config, tmp_path / "other") == body


def test_what_cannot_be_clustered_is_refused(tmp_path: Path) -> None:
    manifest = index_shards(write_images(tmp_path / "shards", samples=6, labels=3), tmp_path / "data")
    encoder = saved(tmp_path / "encoder")
    with pytest.raises(InvalidInput, match="num_clusters=7: there are 6 images"):
        cluster(encoder, manifest, ClusterConfig(num_clusters=7), tmp_path / "out")
    with pytest.raises(InvalidInput, match="no part 'equivariant'"):
        cluster(encoder, manifest, ClusterConfig(part="equivariant"), tmp_path / "out")
    single = index_shards(write_images(tmp_path / "single", samples=1), tmp_path / "of-one")
    with pytest.raises(InvalidInput, match=r"^only 1 image to cluster, two are needed"):
        cluster(encoder, single, ClusterConfig(candidates=(1,)), tmp_path / "out")


def test_features_of_width_1_lie_on_one_line(tmp_path: Path) -> None:
    manifest = index_shards(write_images(tmp_path / "shards", samples=8), tmp_path / "data")
    rows = read_rows(saved(tmp_path / "encoder", equivariant_dim=1), manifest, part="equivariant")
    assert rows.z.shape == (8, 1)
    assert _overlap(rows, rows.label, ClusterConfig()) == 1.0
    with pytest.raises(InvalidInput, match="features of width 1"):
        _nearest_subspace(rows.split(rows.z), rank=1, seed=0)


@pytest.mark.parametrize(
    ("label", "group", "says"),
    [
        ([0, 1, 0, 1, -1], [5, 5, 5, 5, 6], "fewer than two groups"),
        ([0, 0, 1, 1, -1], [5, 5, 6, 6, 6], "no class in common"),
    ],
)
def test_halves_that_say_nothing_of_classes_are_a_reason(label: list[int], group: list[int], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        _nearest_subspace(Split.of(torch.eye(5), label, group), rank=1, seed=0)


def test_the_number_that_was_taken_is_marked_though_a_cluster_is_empty() -> None:
    z = np.eye(4, dtype=np.float32)
    _, curve, *_ = _heat_figure(z, np.array([0, 0, 1, 1]), {2: 9.0, 3: 8.0, 4: 7.0}, taken=3).axes
    legend = curve.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["taken: 3", "shortest: 4"]


@pytest.mark.parametrize(
    "wrong", [{"candidates": []}, {"candidates": [0]}, {"eta": 0}, {"neighbours": 0}, {"kernel": "cosine"}]
)
def test_settings_without_a_meaning_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        parse(ClusterConfig, wrong)
