"""Runs without a label, whole: two stages of coding rates read out as clusters, and pairs mined and trained on."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from viewfold.config import dump
from viewfold.errors import InvalidInput
from viewfold.jobs.recipes import find
from viewfold.jobs.registry import Registry
from viewfold.jobs.run import run_recipe
from viewfold.ssl.encoder import load_encoder
from viewfold.ssl.kept_head import load_head
from viewfold.ssl.subspace_head import SubspaceHead

pytestmark = [pytest.mark.heavy, pytest.mark.slow]

SHORT = ["pretrain.steps=2", "adapt.steps=2", "pretrain.log_every=1", "adapt.log_every=1", "evaluate.curve_images=0"]
OBJECTS = ["data.shards=[demo:objects-train]", "validation.shards=[demo:objects-val]", "evaluate.probe.steps=20"]


def rows(stage: Path) -> list[dict[str, float]]:
    """The metrics of a training."""
    return [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def clustered(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Path:
    """The recipe mcr2-emoji in a few steps: TCR, MLC, clusters, card, registry; two workers under ZeRO 1."""
    run = tmp_path_factory.mktemp("runs") / "mcr2"
    config = find("mcr2-emoji", [*SHORT, "cluster.candidates=[5, 23]"])
    assert config.adapt is not None
    assert (config.adapt.workers, config.adapt.deepspeed.zero_stage) == (2, 1)
    run_recipe(config, run)
    return run


def kept(stage: Path) -> SubspaceHead:
    head = load_head(stage / "encoder", encoder_id=load_encoder(stage / "encoder").id)
    assert isinstance(head, SubspaceHead)
    return head


def test_the_second_stage_goes_on_from_the_head_of_the_first(clustered: Path) -> None:
    first, second = kept(clustered / "pretrain"), kept(clustered / "adapt")
    assert first.cluster is None
    assert second.cluster is not None
    # Two warm-up steps later both maps still lie next to the one that they began as.
    for own in (second.feature, second.cluster):
        torch.testing.assert_close(own.weight, first.feature.weight, rtol=0, atol=1e-3)
    assert not torch.equal(second.feature.weight, second.cluster.weight)


def test_every_step_says_how_the_membership_stands(clustered: Path) -> None:
    for row in rows(clustered / "adapt"):
        assert 0 < row["fact/rate_clusters"] < row["fact/rate"]
        assert row["fact/rate_reduction"] == pytest.approx(row["fact/rate"] - row["fact/rate_clusters"], rel=1e-4)
        assert 0 < row["fact/gamma_diagonal"] < 1
        assert row["fact/cholesky_fallbacks"] == 0


def test_all_images_are_read_out_beside_what_is_simpler(clustered: Path) -> None:
    table = pq.read_table(clustered / "cluster" / "clusters.parquet")
    found = json.loads((clustered / "cluster" / "clusters.json").read_text())
    assert table.num_rows == 720  # the shipped emoji but for the vendor that is held out
    assert len(set(table.column("cluster").to_pylist())) <= found["num_clusters"]
    assert {"spectral", "k-means on Z", "k-means on pixels", "k-means on features"} <= set(found["measures"])
    for one in found["measures"]["k-means on pixels"]:
        assert one["low"] < one["value"] < one["high"]


def test_an_encoder_is_registered_without_an_index(clustered: Path) -> None:
    version = Registry(clustered.parent).resolve("models:/viewfold-mcr2-emoji@champion")
    assert load_encoder(version.encoder).id == load_encoder(clustered / "adapt" / "encoder").id
    assert "bundle" not in version.tags
    card = json.loads((clustered / "evaluate" / "card.json").read_text())
    assert list(card["encoders"]) == ["trained", "against", "untrained"]
    assert card["encoders"]["against"]["id"] == load_encoder(clustered / "pretrain" / "encoder").id


def test_pairs_are_mined_and_trained_on_from_a_registered_encoder(clustered: Path, ray_local: None) -> None:
    run = clustered.parent / "transitive"
    start = ["start=models:/viewfold-mcr2-emoji@champion", "pretrain=null", "encoder=null", "register_as=null"]
    settings = [*SHORT[1::2], "evaluate.curve_images=0", "adapt.stream.batch_size=16", "mine.clique=2"]
    config = find("transitive-objects3d", [*OBJECTS, *start, *settings])
    records = run_recipe(config, run)
    mined = records["mine"].result
    edges = pq.read_table(run / "mine" / "edges.parquet")
    assert edges.num_rows == sum(mined["counts"].values())
    assert [row["samples"] for row in rows(run / "adapt")] == [16, 32]
    assert "fact/violator_share" in rows(run / "adapt")[0]
    body = json.loads((run / "adapt" / "encoder" / "encoder.json").read_text())
    assert body["lineage"]["start"] == load_encoder(clustered / "adapt" / "encoder").id
    assert all(record.reused for record in run_recipe(config, run).values())


def test_a_run_begins_with_one_encoder_or_the_other(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="either `pretrain` or `start`"):
        find("transitive-objects3d", ["start=runs/demo"])
    with pytest.raises(InvalidInput, match="leave `mine` out"):
        find("transitive-objects3d", ["adapt.method={name: cci}"])
    config = find("transitive-objects3d", ["start=nowhere", "pretrain=null", "encoder=null", *OBJECTS])
    assert dump(config)["start"] == "nowhere"
    with pytest.raises(InvalidInput, match="no encoder there"):
        run_recipe(config, tmp_path / "run", until="start")
