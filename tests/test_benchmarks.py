"""Benchmarks run, compare like with like, and say which side was faster."""

import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks.augment import compared, policy_vs_kornia, policy_vs_torchvision, views_vs_kornia
from benchmarks.decode import PEERS, damaged, photographs
from benchmarks.measure import Comparison, compare
from benchmarks.stream import (
    Scale,
    plan_bytes,
    resume_seconds,
    rows,
    vs_decode_limit,
    vs_webdataset,
    write_large_manifest,
    write_shards,
)
from viewfold.pipeline import ShardManifest, decode_image, index_shards

TINY = Scale(
    samples=128,
    shards=2,
    image_sizes=(32,),
    loader_workers=(0, 1),
    manifest_samples=20_000,
    manifest_per_shard=1000,
    resume_at=10_000,
)


def test_a_ratio_is_how_often_ours_fits_into_the_peers_time() -> None:
    value, low, high = Comparison(ours_s=[1.0, 2.0, 4.0], peer_s=[3.0, 4.0, 20.0]).ratio()
    assert value == 3.0
    assert (low, high) == (2.0, 5.0)


def test_both_sides_run_equally_often_and_the_faster_one_is_told() -> None:
    calls: list[str] = []

    def work(name: str, seconds: float) -> None:
        calls.append(name)
        time.sleep(seconds)

    measured = compare(partial(work, "ours", 0.0), partial(work, "peer", 0.02), repeats=3)
    assert sorted(calls) == ["ours"] * 4 + ["peer"] * 4  # one of each to warm up
    row = compared("x", 1.0, measured)
    assert row["met"]
    assert row["low"] <= row["value"] <= row["high"]


@pytest.mark.slow
def test_the_peers_of_the_views_can_be_called() -> None:
    for measured in (
        views_vs_kornia(32, "yiq", 1),
        policy_vs_kornia(32, "exact", 1),
        policy_vs_torchvision(32, 1, True),
    ):
        assert min(*measured.ours_s, *measured.peer_s) > 0


@pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities of TorchVision:DeprecationWarning")
def test_the_decoders_that_are_compared_make_the_same_picture_of_the_same_bytes() -> None:
    (data,) = photographs(300, 200, 1)
    ours = decode_image(data, 180).astype(float)
    for decoder in PEERS.values():
        assert np.abs(decoder(data, 180) - ours).mean() < 0.5
    assert not set(damaged()) & set(photographs(256, 256, 24))


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset never closes a shard that it has read
def test_the_stream_is_compared_over_whole_epochs_of_the_same_shards(tmp_path: Path) -> None:
    index_shards(write_shards(tmp_path, TINY), tmp_path)
    for measured in (vs_webdataset(tmp_path, 32, 0, 1), vs_decode_limit(tmp_path, 32, 1)):
        assert min(*measured.ours_s, *measured.peer_s) > 0


def test_a_large_manifest_is_read_like_any_other_and_begins_anywhere(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    write_large_manifest(tmp_path / "large", index_shards(write_shards(tmp_path, TINY), tmp_path), TINY)
    manifest = ShardManifest.load(tmp_path / "large")
    assert len(manifest) == TINY.manifest_samples
    assert manifest.key(19_999) == "large-000019/0000999"
    assert resume_seconds(tmp_path / "large", TINY.resume_at) > 0


def test_a_plan_holds_no_more_for_a_thousand_times_as_many_samples() -> None:
    small, large = plan_bytes(10**6), plan_bytes(10**9)
    assert abs(large - small) < 20_000
    assert large < 2_000_000


@pytest.mark.slow
def test_the_suite_of_the_stream_gives_its_four_names() -> None:
    made = list(rows(1, TINY))
    assert {row["name"] for row in made} == {
        "vs_webdataset",
        "vs_decode_limit",
        "resume_seconds_at_1e6",
        "plan_bytes_per_million_samples",
    }
    assert all(np.isfinite(row["value"]) and isinstance(row["met"], bool) for row in made)
    assert len(made) == len(TINY.image_sizes) * (len(TINY.loader_workers) + 1) + 2
