"""The suite `endtoend` trains for real, by turns, and says what it left out."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import peers
from benchmarks.endtoend import FULL, PEER, Case, Layout, Side, facts, rows, write_data
from benchmarks.endtoend_turns import training
from benchmarks.peers import left_out, python_with

ONE = Layout(threads=1, loaders=1)
TINY = replace(
    FULL, backbones=("resnet-small",), sizes=(32,), images=16, batch=8, layouts=(ONE,), turn_s=0.0, least_steps=2
)
COUNTER = """
import sys, time
from pathlib import Path
from benchmarks.endtoend_turns import Turns
print("what a library says")
turns = Turns(kind="counter")
while True:
    with Path(sys.argv[1]).open("a") as steps:
        steps.write("x")
    time.sleep(0.01)
    turns.step_taken()
"""


def test_a_training_takes_the_steps_it_is_asked_for_and_none_between(tmp_path: Path) -> None:
    steps, log = tmp_path / "steps", tmp_path / "log"
    with training([sys.executable, "-c", COUNTER, str(steps)], threads=1, log=log) as running:
        assert running.facts == {"kind": "counter"}
        for done in (4, 8):
            assert running.seconds(3) > 0
            time.sleep(0.1)
            assert len(steps.read_text()) == done


def test_a_training_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such backbone')"]
    with pytest.raises(AssertionError, match="no such backbone"), training(command, threads=1, log=tmp_path / "log"):
        pass


@pytest.mark.slow
def test_without_a_peer_our_side_is_held_against_free_views(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(peers.PEERS, sys.executable)  # a Python without lightly
    peers.peer_versions.cache_clear()
    (row,) = rows(1, TINY)
    assert capsys.readouterr().out.splitlines() == [left_out("vs_lightly", PEER)]
    assert row["name"] == "share_of_ceiling"
    assert {"backbone": "resnet-small", "size": 32, "batch": 8}.items() <= row.items()
    assert (row["ours_threads"], row["ours_loaders"], row["free_loaders"]) == (1, 1, 0)
    assert row["value"] == pytest.approx(row["ours_images_s"] / row["free_images_s"])
    assert left_out("vs_lightly", PEER) in facts([row])["notes"]
    peers.peer_versions.cache_clear()


@pytest.mark.slow
@pytest.mark.skipif(python_with(PEER) is None, reason=left_out("vs_lightly", PEER))
def test_the_peer_trains_the_same_backbones_by_turns(tmp_path: Path) -> None:
    write_data(tmp_path, 32, 16)
    for backbone in FULL.backbones:
        case = Case(backbone=backbone, size=32, batch=8, cores=[0], data=tmp_path)
        heard = []
        for side in (Side("ours", sys.executable), Side("peer", str(python_with(PEER)))):
            with training(side.command(case, ONE), threads=1, log=side.log(case)) as running:
                assert np.isfinite(running.seconds(1))
                heard.append(json.dumps(running.facts))
        assert heard[0] == heard[1]
