"""When a gate passes: floors, falls with their intervals, what cannot be measured, facts of the index."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from viewfold.config import dump, override, parse
from viewfold.errors import InvalidInput
from viewfold.jobs.gates_config import GateConfig, GatesConfig, LatencyGateConfig, RankGateConfig, RecallGateConfig
from viewfold.jobs.gates_rules import Missing, encoder_row, latency_row, recall_row
from viewfold.jobs.gates_verdict import GateRow, Verdict
from viewfold.ssl.evaluate import Measure, bootstrap


def measure(right: np.ndarray) -> Measure:
    """The mean of right answers, one group each."""
    found = bootstrap(lambda w: float(np.average(right, weights=w)), np.arange(len(right)), num_draws=200)
    return Measure(name="knn5/top1", **found._asdict(), chance=0.3, n=len(right))


def answers(right: int, n: int) -> np.ndarray:
    return (np.arange(n) < right).astype(float)


def row(challenger: Measure | Missing, champion: Measure | Missing | None, config: GateConfig) -> GateRow:
    return encoder_row("knn", "queries", config, challenger=challenger, champion=champion, floor=True)


def test_a_value_below_its_floor_fails_whoever_is_champion() -> None:
    config = GateConfig(at_least=0.8)
    found = row(measure(answers(70, 100)), measure(answers(70, 100)), config)
    assert (found.verdict, found.reason) == ("failed", "0.700 is below 0.8")
    assert row(measure(answers(80, 100)), None, config).verdict == "passed"


def test_floors_are_not_asked_of_what_the_champion_was_asked() -> None:
    own = measure(answers(70, 100))
    found = encoder_row("knn", "remembered", GateConfig(at_least=0.8), challenger=own, champion=own, floor=False)
    assert (found.verdict, found.limit) == ("passed", "falls by at most 0.03")


def test_a_fall_fails_and_a_gain_passes() -> None:
    config = GateConfig(may_fall=0.05)
    worse, better = measure(answers(600, 1000)), measure(answers(800, 1000))
    fallen = row(worse, better, config)
    assert (fallen.verdict, fallen.reason) == ("failed", "0.200 below the champion, 0.050 allowed")
    risen = row(better, worse, config)
    assert risen.verdict == "passed"
    assert risen.difference is not None
    assert risen.difference.low is not None
    assert risen.difference.low > 0.15


def test_the_same_answers_pass_even_where_nothing_may_fall() -> None:
    own = measure(answers(6, 10))
    found = row(own, own, GateConfig(may_fall=0.0))
    assert found.verdict == "passed"
    assert found.difference is not None
    assert (found.difference.low, found.difference.high) == (0.0, 0.0)


def test_too_few_queries_to_tell_fail() -> None:
    few, mixed = answers(12, 20), np.roll(answers(12, 20), 8)
    found = row(measure(mixed), measure(few), GateConfig(may_fall=0.03))
    assert found.verdict == "failed"
    assert found.reason.startswith("20 queries cannot rule out a fall by 0.")


def test_the_rank_may_fall_by_a_share_of_the_champions() -> None:
    def rank(value: float) -> Measure:
        return Measure(name="effective_rank", value=value, low=None, high=None, chance=1.0, n=9)

    def judged(value: float) -> GateRow:
        return encoder_row(
            "effective_rank", "queries", RankGateConfig(), challenger=rank(value), champion=rank(50.0), floor=True
        )

    assert (judged(40.0).verdict, judged(39.0).verdict) == ("passed", "failed")
    assert judged(40.0).limit == "at least 2, falls by at most 20 %"


def test_what_cannot_be_measured_is_skipped_unless_it_is_required_or_was_there_before() -> None:
    none, some = Missing("no labels"), measure(answers(6, 10))
    assert row(none, none, GateConfig()).verdict == "skipped"
    assert row(none, None, GateConfig(required=True)).verdict == "failed"
    lost = row(none, some, GateConfig())
    assert (lost.verdict, lost.reason) == ("failed", "no labels; the champion has 0.600")
    assert row(Missing("nan", broken=True), None, GateConfig()).verdict == "failed"
    new = row(some, none, GateConfig())
    assert (new.verdict, new.reason) == ("skipped", "of the champion: no labels")


def test_the_index_is_held_against_its_facts() -> None:
    own, old = {"recall_at_10": 0.93, "latency_ms": 3.0}, {"recall_at_10": 0.99, "latency_ms": 1.0}
    assert recall_row(RecallGateConfig(), own, old).verdict == "passed"
    assert recall_row(RecallGateConfig(at_least=0.95), own, old).reason == "0.930 is below 0.95"
    assert latency_row(LatencyGateConfig(), own, old).verdict == "passed"
    assert latency_row(LatencyGateConfig(may_grow=2.0), own, old).reason == "3.000 ms, 2.000 allowed"
    assert latency_row(LatencyGateConfig(may_grow=2.0), own, None).verdict == "passed"
    assert recall_row(RecallGateConfig(required=True), Missing("no index"), None).verdict == "failed"


def test_a_challenger_without_an_index_does_not_replace_one_that_has_one() -> None:
    none, old = Missing("no index"), {"recall_at_10": 0.99, "latency_ms": 1.0}
    for before in (None, Missing("no index")):
        assert recall_row(RecallGateConfig(), none, before).verdict == "skipped"
        assert latency_row(LatencyGateConfig(), none, before).verdict == "skipped"
    for lost in (recall_row(RecallGateConfig(), none, old), latency_row(LatencyGateConfig(), none, old)):
        assert lost.verdict == "failed"
        assert lost.reason.startswith("no index; the champion has ")


def test_a_verdict_survives_json_and_tells_what_failed() -> None:
    good, bad = measure(answers(9, 10)), measure(answers(3, 10))
    rows = [
        row(good, bad, GateConfig()),
        row(bad, good, GateConfig(at_least=0.5)),
        row(Missing("?"), None, GateConfig()),
    ]
    verdict = Verdict.of(rows, ["something"])
    assert not verdict.passed
    assert verdict.reason == "knn on queries: 0.300 is below 0.5; 0.600 below the champion, 0.030 allowed"
    kept = json.loads(json.dumps(verdict.to_dict()))
    assert (kept["passed"], kept["reason"], kept["notes"]) == (False, verdict.reason, ["something"])
    assert kept["rows"] == [asdict(row) for row in verdict.rows]
    table = verdict.table().splitlines()
    assert [line.split()[0] for line in table] == ["gate", "knn", "knn", "knn", "knn", "knn", "note:", "refused:"]
    assert Verdict.of(rows[:1] + rows[2:]).reason == "1 of 2 gates passed, 1 skipped"


def test_a_gate_is_switched_off_by_null_and_keeps_its_defaults_where_nothing_is_said() -> None:
    config = override(GatesConfig(), ["knn=null", "precision.at_least=0.5"])
    assert config.knn is None
    assert config.precision == GateConfig(at_least=0.5, may_fall=0.03)
    assert parse(GatesConfig, dump(config)) == config
    with pytest.raises(InvalidInput, match="may_fall must be 0 or more"):
        override(GatesConfig(), ["rotation_r2.may_fall=-1"])


@pytest.mark.parametrize(
    "limit", ["knn.may_fall", "knn.at_least", "effective_rank.may_fall", "effective_rank.at_least",
              "bundle_recall.at_least", "bundle_latency_ms.at_most", "bundle_latency_ms.may_grow"],
)  # fmt: skip
def test_a_limit_that_is_no_number_switches_no_gate_off(limit: str) -> None:
    with pytest.raises(InvalidInput, match="got nan"):
        override(GatesConfig(), [f"{limit}=.nan"])
