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
from viewfold.jobs.cluster import ClusterConfig, affinity, cluster
from viewfold.jobs.cluster_rows import read_rows
from viewfold.pipeline.indexer import index_shards
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing, save_encoder
from viewfold.ssl.evaluate import coding_length
from viewfold.ssl.kept_head import save_head
from viewfold.ssl.subspace_head import SubspaceHead, SubspaceHeadConfig

QUICK = ClusterConfig(candidates=(2, 3, 6, 500), neighbours=8, subspace_rank=2)


def saved(folder: Path, *, heads: str | None = None) -> Path:
    """An untrained encoder of 16 px images, with a subspace head on its invariant part unless `heads` is None."""
    torch.manual_seed(0)
    config = EncoderConfig(backbone="resnet-small", preprocessing=Preprocessing(image_size=16, grey=True))
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
    body = cluster(encoder, manifest, QUICK, tmp_path / "out")
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


@pytest.mark.parametrize(
    "wrong", [{"candidates": []}, {"candidates": [0]}, {"eta": 0}, {"neighbours": 0}, {"kernel": "cosine"}]
)
def test_settings_without_a_meaning_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        parse(ClusterConfig, wrong)
