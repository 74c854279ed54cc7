"""Benchmarks run, compare like with like, and say which side was faster."""

import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import losses
from benchmarks.augment import policy_vs_kornia, policy_vs_torchvision, views_vs_kornia
from benchmarks.decode import PEERS, damaged, photographs
from benchmarks.measure import Comparison, Row, compare, compared, run_suite, worst_case
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


def test_the_worst_case_is_the_least_favourable_of_each_name() -> None:
    made = [{"name": name, "value": value} for name in ("speed", "seconds") for value in (2.0, 1.0, 3.0)]
    assert worst_case(made, lower_is_better={"seconds"}) == {"speed": 1.0, "seconds": 3.0}


def test_a_suite_prints_each_row_and_its_record_last_and_keeps_it_where_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def two(repeats: int) -> Iterator[Row]:
        yield compared("x", 1.0, Comparison(ours_s=[1.0] * repeats, peer_s=[2.0] * repeats), size=32)
        yield {"name": "y", "value": 0.5}

    monkeypatch.setattr("sys.argv", ["tiny", "--repeats", "2", "--out", str(tmp_path / "new" / "tiny.json")])
    run_suite("tiny", two, about="Tiny.", repeats=9, facts=lambda measured: {"worst_case": worst_case(measured)})
    first, second, record = capsys.readouterr().out.splitlines()
    assert first.split()[:4] == ["x", "2.00", "[2.00,", "2.00]"]
    assert second.split() == ["y", "0.50"]
    assert json.loads(record) == json.loads((tmp_path / "new" / "tiny.json").read_text())
    fields = ["suite", "about", "machine", "minutes", "threads", "worst_case", "labels", "rows"]
    assert list(json.loads(record)) == fields
    assert json.loads(record)["rows"][0]["repeats"] == 2


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


@pytest.mark.slow
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


TINY_STEP = losses.Scale(batch=12, dim=10, num_params=4)


def test_both_predictors_take_the_same_step() -> None:
    (loss, grads), (peer_loss, peer_grads) = (losses.step_of(side, TINY_STEP)() for side in ("ours", "peer"))
    torch.testing.assert_close(loss, peer_loss)
    for grad, peer_grad in zip(grads, peer_grads, strict=True):
        torch.testing.assert_close(grad.flatten(), peer_grad.flatten())
        assert grad.any()


def test_the_rate_is_compared_with_that_of_covariances_written_out() -> None:
    small = losses.RateScale(rows=24, dim=10, clusters=3, sampled=24)  # a sample of all
    (loss, (by_z, by_membership)), *ours = (losses.rate_step_of(side, small)() for side in ("peer", "ours", "sampled"))
    for our_loss, (our_by_z, our_by_membership) in ours:
        torch.testing.assert_close(our_loss, loss)
        torch.testing.assert_close(our_by_z, by_z, rtol=1e-4, atol=1e-5)
        # A sample is divided by its own sum; what that adds is the same in all of a row, whose sum is fixed anyway.
        difference = our_by_membership - by_membership
        torch.testing.assert_close(difference, difference[:, :1].expand(24, 24), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_suite_of_the_losses_gives_its_names_and_saves_memory() -> None:
    sie, mlc = losses.Scale(batch=32, dim=512), losses.RateScale(rows=256, dim=64, sampled=32)
    made = {row["name"]: row for row in losses.rows(1, sie, mlc)}
    targets = {"sie_predictor_vs_dense": 5.0, "mlc_vs_naive": 3.0, "mlc_sampled_vs_naive": 15.0}
    assert {name: row["target"] for name, row in made.items() if "target" in row} == targets
    memory = [made[name] for name in ("sie_predictor_peak_memory_ratio", "mlc_peak_memory_ratio")]
    assert len(made) == len(targets) + len(memory)
    for row, floor in zip(memory, (32 * 512 * 512, 256 * 64 * 256), strict=True):
        assert row["peer_mb"] > floor * 4 / 1e6  # at least the matrices, or the products
        assert row["value"] > 1
