"""Benchmarks run, compare like with like, and say which side was faster."""

import time
from functools import partial

import pytest

from benchmarks.augment import compared, policy_vs_kornia, policy_vs_torchvision, views_vs_kornia
from benchmarks.measure import Comparison, compare


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
