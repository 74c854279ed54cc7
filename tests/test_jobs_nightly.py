"""The nightly before it trains anything: what is new, whose turn it is, what its settings may be."""

import json
import os
import socket
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nights import DAY, Home, settings
from tiny import write_images

from viewfold.errors import InvalidInput, TrainingStopped
from viewfold.jobs.nightly_canary import Canary, complaint
from viewfold.jobs.nightly_config import CanaryConfig
from viewfold.jobs.nightly_lease import LEASE, Lease
from viewfold.jobs.nightly_look import refused_for, seen_by, unfinished
from viewfold.jobs.nightly_night import nights
from viewfold.jobs.nightly_recipe import night_run
from viewfold.jobs.registry import Registry
from viewfold.pipeline.stage import run_stage
from viewfold.retrieval import DemoItem, DemoSet


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Shards, and a registry that nothing asks."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_images(tmp_path / "data", samples=8, per_shard=4)
    return Home(tmp_path, Registry(tmp_path))


def test_what_was_judged_is_not_new_on_any_day_until_a_shard_changes(home: Home) -> None:
    config = settings("judged")
    home.night(config).end("refused", "worse than the champion")
    for day in (DAY, "2026-03-02"):
        code, (line,) = home.start(config, day)
        assert code == 0
        assert line.startswith(f"nightly judged: nothing new; night {home.night_name()} has seen these 2 shards")
        assert line.endswith("ended refused: worse than the champion")
    assert not (home.folder / "mlflow.db").exists(), "a look asks no registry"
    assert not (home.folder / "nightly" / "judged" / LEASE).exists()


def test_a_night_that_was_rolled_back_is_over_for_its_day_and_not_judged(home: Home) -> None:
    config = settings("back")
    night = home.night(config)
    night.end("rolled back", "canaries")
    assert home.start(config)[0] == 0
    assert seen_by(night.run, home.stamps()) == []


def test_the_newest_night_is_known_also_after_the_clock_was_set_back(home: Home) -> None:
    config = settings("clock")
    ahead = home.night(config, day="2026-04-01")
    ahead.facts["began"] = "2126-04-01T00:00:00+00:00"
    ahead.end("refused", "worse than the champion")
    write_images(home.folder / "data", samples=12, per_shard=4)
    cut = home.night(config)
    found = unfinished(nights(home.folder / "nightly" / "clock"))
    assert found is not None
    assert found.folder == cut.folder, "it is gone on with"
    cut.end("promoted", "as good")
    code, (line,) = home.start(config, "2026-03-02")
    assert code == 0
    assert line.startswith(f"nightly clock: nothing new; night {cut.folder.name} has seen these 3 shards")


def test_two_nights_at_once_are_one(home: Home) -> None:
    config = settings("twice")
    lease = Lease(home.folder / "nightly" / "twice", 10)
    assert lease.take() is None
    with lease:
        code, (line,) = home.start(config)
    assert code == 1
    assert f"process {os.getpid()} on {socket.gethostname()}" in line
    assert Lease(home.folder / "nightly" / "twice", 10).take() is None, "given back at the end"


def test_the_lease_of_a_dead_process_is_taken_at_once_and_that_of_another_machine_when_its_time_is_over(
    tmp_path: Path,
) -> None:
    assert Lease(tmp_path, 10).take() is None
    held = json.loads((tmp_path / LEASE).read_text())
    assert Lease(tmp_path, 10).take() is not None, "this process lives"
    gone = subprocess.Popen(["true"])
    gone.wait()
    for dead in ({"pid": gone.pid}, {"started": "another process, of the same number"}):
        (tmp_path / LEASE).write_text(json.dumps({**held, **dead}))
        assert Lease(tmp_path, 10).take() is None
    (tmp_path / LEASE).write_text(json.dumps({**held, "host": "elsewhere"}))
    other = Lease(tmp_path, 10).take()
    assert other is not None
    assert other.host == "elsewhere"
    for gone_by in (time.time() - 1, time.time() + 30 * 86_400):  # of a clock that has been set back since
        (tmp_path / LEASE).write_text(json.dumps({**held, "host": "elsewhere", "expires": gone_by}))
        assert Lease(tmp_path, 10).take() is None


def test_a_lease_is_renewed_while_its_process_lives_and_one_that_was_lost_stops_the_work(tmp_path: Path) -> None:
    lease = Lease(tmp_path, 0.2 / 60)
    assert lease.take() is None
    with lease:
        first = json.loads((tmp_path / LEASE).read_text())
        while json.loads((tmp_path / LEASE).read_text())["expires"] == first["expires"]:
            time.sleep(0.01)
        lease.require()
    lease = Lease(tmp_path, 10)  # of ten minutes: no renewal writes while this test does
    assert lease.take() is None
    with lease:
        (tmp_path / LEASE).write_text(json.dumps({**first, "token": "other", "host": "elsewhere"}))
        with pytest.raises(TrainingStopped, match=r"the lease was taken by process .* on elsewhere"):
            lease.require()
    assert json.loads((tmp_path / LEASE).read_text())["token"] == "other"


def test_of_many_that_take_a_dead_lease_one_gets_it(tmp_path: Path) -> None:
    (tmp_path / LEASE).write_text("{ cut")
    got: list[bool] = []
    threads = [threading.Thread(target=lambda: got.append(Lease(tmp_path, 10).take() is None)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(got) == 1


def test_the_first_night_is_the_recipe_and_a_later_one_goes_on_from_the_champion_with_a_share_of_old_data() -> None:
    config = settings("plan", steps=3)
    cold = night_run(config, champion=None, replay=[])
    assert (cold.register_as, cold.alias, cold.start, cold.data.replay) == ("plan", "challenger", "", None)
    warm = night_run(config, champion="7", replay=["/data/a.tar"])
    assert (warm.start, warm.pretrain, warm.encoder, warm.alias) == ("models:/plan/7", None, None, "challenger")
    assert warm.adapt is not None
    assert warm.adapt.steps == 3
    assert warm.data.replay is not None
    assert (warm.data.replay.shards, warm.data.replay.share) == (("/data/a.tar",), 0.5)


def test_a_night_learns_from_all_where_pairs_are_mined_of_all_or_nothing_is_new_to_learn_from() -> None:
    plain = night_run(settings("plan"), champion="7", replay=["/data/a.tar"])
    assert plain.data.replay is not None
    assert plain.data.replay.nothing_new == "all"
    mined = night_run(
        settings("plan", recipe="transitive-objects3d", settings=["embed={}", "index={}"]),
        champion="7",
        replay=["/data/a.tar"],
    )
    assert mined.mine is not None
    assert mined.data.replay is None
    with pytest.raises(ValueError, match="pairs are mined of all of it"):
        replace(mined, data=replace(mined.data, replay=plain.data.replay))


def test_a_training_for_drift_that_was_refused_is_not_repeated_for_the_same_queries(home: Home) -> None:
    night = home.night(settings("drifts"))
    night.facts["forced"] = "drift: cosine PSI 0.9"
    night.end("refused", "worse than the champion")
    night.facts["ended"] = "2026-03-01T04:00:00+00:00"
    assert refused_for(night, "2026-03-01T03:00:00+00:00")
    assert not refused_for(night, "2026-03-01T04:00:01+00:00"), "every query has come since"
    night.facts["forced"] = ""
    assert not refused_for(night, "2026-03-01T03:00:00+00:00"), "it was for new data"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"recipe": "objects-demo"}, "makes no index"),
        ({"settings": ["pretrain.stream.ledger=/tmp/ledger"]}, "a ledger belongs to one run"),
    ],
)
def test_a_recipe_that_cannot_be_made_every_night_is_refused(changed: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        night_run(settings("plan", **changed), champion=None, replay=[])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"name": "a b"}, "name takes letters"),
        ({"keep": 0}, "keep must lie in"),
        ({"drift": {}}, "drift is read from a running service"),
        ({"webhook": "nowhere"}, "webhook must begin with http"),
        ({"replay_share": 1.0}, "replay_share must lie in 0..0.95"),
    ],
)
def test_settings_that_cannot_hold_are_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        settings(**{"name": "refused", **changed})


def test_a_date_that_is_none_is_refused(home: Home) -> None:
    with pytest.raises(InvalidInput, match="--date yesterday: no date"):
        home.start(settings("date"), "yesterday")


def test_shards_that_a_run_has_seen_are_known_by_their_stamps(home: Home, tmp_path: Path) -> None:
    stamps = home.stamps()
    first, second = stamps
    run_stage(
        tmp_path / "run" / "data",
        name="data",
        config=None,
        inputs={first: stamps[first], second: "as it was"},
        make=lambda _: None,
        code_version="1",
    )
    assert seen_by(tmp_path / "run", stamps) == [first]
    assert seen_by(None, stamps) == []


def test_canaries_tell_another_pair_a_short_answer_and_wrong_labels(tmp_path: Path) -> None:
    def answered(*labels: str, encoder: str = "e") -> DemoSet:
        items = [DemoItem(f"d{n}", label, None, 0.5, n + 1, "near") for n, label in enumerate(labels)]
        return DemoSet("q", items, {}, [], "nearest", 2, 0, encoder, "b")

    def said(*answers: DemoSet) -> tuple[str, float]:
        canaries = [Canary("one", "cat", tmp_path), Canary("two", "dog", tmp_path)]
        config = CanaryConfig(k=2, min_precision=0.5)
        return complaint(canaries, answers, config, encoder_id="e", bundle_id="b")

    assert said(answered("cat", "cat"), answered("dog", "cat")) == ("", 0.75)
    assert said(answered("cat", "dog"), answered("cat", "cat"))[0].startswith("25% of the demonstrations carry")
    assert "get fewer than 2 demonstrations: two" in said(answered("cat", "cat"), answered("dog"))[0]
    assert "answers come from encoder f and index b" in said(answered("cat", "cat"), answered("x", "y", encoder="f"))[0]
