"""Killed, shrunk and resumed trainings, whole: the ledger proves that what was kept has every sample exactly once."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from viewfold.cli import main
from viewfold.pipeline.ledger import Audit, audit, read_ledger

pytestmark = [pytest.mark.heavy, pytest.mark.slow]

STEPS, BATCH = 80, 16


def command(out: Path, *settings: str) -> list[str]:
    words = ["pretrain", "smoke", "--out", str(out), f"pretrain.steps={STEPS}", f"pretrain.stream.batch_size={BATCH}"]
    ledger = f"pretrain.stream.ledger={out.parent / 'ledger'}"
    return [sys.executable, "-m", "viewfold.cli", *words, ledger, "pretrain.checkpoint_every=30", *settings]


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not happened():
        assert time.monotonic() < deadline, "it did not happen within the time"
        time.sleep(0.1)


def steps_taken(out: Path) -> int:
    """The last step that the ledger has a line for."""
    written = "".join(path.read_text() for path in (out.parent / "ledger").glob("rank-*.jsonl"))
    return max(map(int, re.findall(r'"step": (\d+)', written)), default=0)


def train_workers(driver: int) -> list[psutil.Process]:
    """The processes of the ranks below a driver."""
    below = psutil.Process(driver).children(recursive=True)
    return [process for process in below if "RayTrainWorker" in " ".join(process.cmdline())]


def require_exactly_once(found: Audit, num_samples: int) -> None:
    """Every sample once in each whole epoch, none twice in the last one."""
    assert found.sound
    whole, rest = divmod(STEPS * BATCH, num_samples)
    counts = [entry.taken for entry in found.epochs.values()]
    assert counts == [num_samples] * whole + ([rest] if rest else [])


def refuse_other_data(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A training that was cut is neither continued on other data nor thrown away for it."""
    cut = sorted((out / "pretrain.part" / "checkpoints").glob("step-*"))[-1]
    before = json.loads((cut / "stream.json").read_text())["manifest_hash"]
    with pytest.raises(SystemExit) as stopped:
        main([*command(out)[3:], "held_out=[noto]"])
    assert stopped.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"on data {before}, and there is data " in line
    assert cut.is_dir()


@pytest.mark.parametrize("loader_workers", [0, 1], ids=["rank", "loader"])
def test_a_process_killed_in_the_middle_of_an_epoch_costs_and_repeats_no_sample(
    tmp_path: Path, loader_workers: int
) -> None:
    out = tmp_path / "run"
    settings = ["pretrain.workers=2", f"pretrain.stream.loader_workers={loader_workers}"]
    running = subprocess.Popen(command(out, *settings), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: (out.parent / "ledger").is_dir() and steps_taken(out) >= 40)
    rank = train_workers(running.pid)[1]
    (rank.children()[0] if loader_workers else rank).send_signal(signal.SIGKILL)
    _, lines = running.communicate(timeout=400)
    assert running.returncode == 0, lines
    assert "pretrain: 2 workers went on from step " in lines
    found = audit(tmp_path / "ledger")
    assert found.attempts == 2
    assert found.rolled_back > 0
    assert {row.rank for row in read_ledger(tmp_path / "ledger") if row.rolled_back} == {0, 1}
    require_exactly_once(found, found.num_samples)


def test_a_driver_killed_and_started_with_fewer_workers_goes_on_with_the_next_sample_of_the_same_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    first = subprocess.Popen(command(out, "pretrain.workers=2"), stderr=subprocess.DEVNULL, start_new_session=True)
    wait_for(lambda: (out.parent / "ledger").is_dir() and steps_taken(out) >= 40)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    refuse_other_data(out, capsys)
    again = command(out, "pretrain.workers=1", "pretrain.stream.loader_workers=1")
    subprocess.run(again, check=True, timeout=400)
    found = audit(tmp_path / "ledger")
    require_exactly_once(found, found.num_samples)
    second = [row for row in read_ledger(tmp_path / "ledger") if row.attempt == 1]
    assert {row.rank for row in second} == {0}
    assert 0 < second[0].step <= steps_taken(out)
    rows = [json.loads(line) for line in (out / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    assert (rows[-1]["step"], rows[-1]["samples"], rows[-1]["workers"]) == (STEPS, STEPS * BATCH, 1)
