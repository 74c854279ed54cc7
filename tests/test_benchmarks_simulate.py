"""The simulated cluster keeps to what is known of it: closed forms where there are any, and every sample once."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks import scale, simulate
from benchmarks.cluster import (
    Attempt,
    Cluster,
    Training,
    daly_seconds,
    goodput,
    misplaced,
    seen,
    simulated,
    young_steps,
)
from viewfold.pipeline.order import Plan

CALM = Cluster(nodes=4, node_mtbf_s=math.inf)
RUN = Training(
    steps=1000,
    batch=96,
    sizes=(8, 16, 24, 32),
    sample_s=0.25,
    fixed_s=0.25,
    checkpoint_every=100,
    checkpoint_s=3.0,
    restart_s=7.0,
)
STORMY = Cluster(nodes=4, node_mtbf_s=150.0, repair_s=30.0, jitter=0.2)
SHORT = replace(RUN, steps=60, checkpoint_every=10, look_every_s=5.0)


def test_without_failures_and_stragglers_a_run_takes_its_steps_checkpoints_and_one_start() -> None:
    (only,) = simulated(CALM, RUN)
    assert (only.ranks, only.first, only.kept, only.reached, only.ended) == (32, 0, 1000, 1000, "done")
    assert only.end_s == pytest.approx(7 + 1000 * (96 / 32 * 0.25 + 0.25) + 10 * 3)
    assert goodput(RUN, [only]) == pytest.approx(1000 / 1037)


def test_losses_cost_what_daly_expects_and_least_near_youngs_interval() -> None:
    cluster = Cluster(nodes=4, node_mtbf_s=8000.0, repair_s=0.0)
    run = replace(RUN, steps=400_000, sizes=(32,), restart_s=20.0, checkpoint_s=4.0)
    times = {}
    for every in (25, 125, 625):
        case = replace(run, checkpoint_every=every)
        times[every] = simulated(cluster, case, seed=1)[-1].end_s
        assert times[every] == pytest.approx(daly_seconds(cluster, case), rel=0.03)
    assert young_steps(cluster, run) == pytest.approx(math.sqrt(2 * 4 * 2000))
    assert min(times, key=lambda every: times[every]) == 125


def test_the_slowest_of_many_ranks_decides_how_long_a_step_takes() -> None:
    """Against as many lognormal numbers drawn one by one, and the chance that nobody stalls."""
    run = replace(RUN, steps=20_000, restart_s=0.0, checkpoint_s=0.0, fixed_s=0.0, checkpoint_every=20_000)
    drawn = np.exp(0.1 * np.random.default_rng(1).standard_normal((20_000, 32))).max(axis=1).mean()
    assert 1 / goodput(run, simulated(replace(CALM, jitter=0.1), run)) == pytest.approx(drawn, rel=0.003)
    stalling = replace(CALM, stall_share=0.01, stall_s=0.75)
    assert 1 / goodput(run, simulated(stalling, run)) == pytest.approx(2 - 0.99**32, rel=0.02)


@pytest.mark.parametrize("run", [SHORT, replace(SHORT, grow="checkpoint")], ids=["now", "at checkpoints"])
def test_every_sample_is_seen_once_through_losses_and_resizings(run: Training) -> None:
    plan = Plan("data", 96 * 60 - 31, 96, lanes=8, block=16)
    attempts = simulated(STORMY, run, seed=2)
    assert {"lost", "grew", "done"} == {attempt.ended for attempt in attempts}
    assert len({attempt.ranks for attempt in attempts}) > 1
    assert any(attempt.reached > attempt.kept for attempt in attempts)
    np.testing.assert_array_equal(seen(plan, attempts), 1)
    assert misplaced(plan, attempts) == 0


def test_a_seam_that_is_off_by_a_step_is_noticed() -> None:
    plan = Plan("data", 96 * 4, 96, lanes=8, block=16)
    first = Attempt(32, 0, 2, 3, 0.0, 1.0, "lost")
    again, lost = Attempt(16, 1, 4, 4, 1.0, 2.0, "done"), Attempt(16, 3, 4, 4, 1.0, 2.0, "done")
    assert set(seen(plan, [first, again]).tolist()) == {1, 2}
    assert set(seen(plan, [first, lost]).tolist()) == {0, 1}


def test_attempts_follow_each_other_without_a_gap_in_steps_or_time() -> None:
    attempts = simulated(STORMY, SHORT, seed=3)
    for before, after in pairwise(attempts):
        assert after.first == before.kept <= before.reached
        assert after.begin_s >= before.end_s
    assert attempts[-1].kept == SHORT.steps


@pytest.mark.slow
def test_the_suite_gives_its_rows_and_plots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(simulate.PLOTS, str(tmp_path))
    tiny = simulate.Scale(
        samples=200_000,
        passes=1,
        nodes=(8,),
        node_mtbf_h=(2.0,),
        checkpoints=(10, 20),
        ranks=(8, 16),
        jitters=(0.1,),
        jitter_steps=50,
        replayed=3000,
    )
    rows = list(simulate.rows(1, tiny))
    exact = [row["value"] for row in rows if row["name"] in {"samples_not_seen_once", "misplaced_at_seams"}]
    assert exact == [0, 0, 0]
    assert {row["name"] for row in rows} >= {"step_by_stragglers", "useful_by_interval", "useful_by_policy"}
    assert len(list(tmp_path.glob("scale-*.png"))) == 3


def test_the_reckoning_reads_what_was_measured_and_names_what_limits() -> None:
    known = scale.measured()
    assert known["stream_us_64"] < known["stream_us_128"] < known["view_us_224"]
    needs = {"a": scale.Range(1, 5), "b": scale.Range(2, 9), "c": scale.Range(6, 9)}
    row = scale.limited("stage", 8, needs)
    assert (row["limit_bad"], row["limit_good"], row["may_limit"]) == ("a", "a", ["a", "b"])
    assert row["low"] == pytest.approx(scale.SAMPLES / 5 / 3600)
    names = {row["name"] for row in scale.rows(1)}
    assert {"training pass", "embedding", "index", "query_core_ms"} <= names
