"""A nightly that is killed after every stage and phase, and started again each time, ends as if it never had been."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from conftest import CHECKOUT
from nights import GATES, register_pair
from tiny import write_images

from viewfold.cli import main
from viewfold.config import load
from viewfold.jobs.nightly_config import NightlyConfig
from viewfold.jobs.nightly_night import nights
from viewfold.jobs.registry import CHALLENGER, CHAMPION, Registry
from viewfold.retrieval import IndexBundle

pytestmark = [pytest.mark.heavy, pytest.mark.slow]

STAGES = ("data", "start", "adapt", "embed", "index", "register")
PHASES = ("run", "gates", "promote", "tell", "check", "prune", "result")
LONGEST_S = 1200
SETTINGS = (
    "encoder.preprocessing.image_size=16",
    "pretrain.stream.image_size=16",
    "pretrain.stream.batch_size=8",
    "pretrain.method={name: vicreg, expander_widths: [8, 8]}",
    "pretrain.workers=1",
    "pretrain.engine=plain",
    "embed.actors=1",
)


def start(config: Path, home: Path) -> None:
    """In a process of its own: the verb, as the leader of a group that can be killed with all that it started."""
    os.setsid()
    os.environ |= {"RAY_OVERRIDE_RESOURCES": '{"CPU": 1}', "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT / 'tests'}"}
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    main(["nightly", str(config), "--home", str(home), "--date", "2026-03-02"])


def done(folder: Path) -> set[str]:
    """The stages and phases that are done."""
    stages = {name for name in STAGES if any(folder.glob(f"2026-03-02-*/run/{name}/stage.json"))}
    return stages | {phase for night in nights(folder) for phase in night.facts["phases"]}


def test_killed_after_every_stage_and_phase_it_ends_with_one_new_champion_and_there_always_was_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_images(tmp_path / "data", samples=16, per_shard=16)
    registry = Registry(tmp_path)
    register_pair(registry, "tiny", tmp_path / "first", seed=0, alias=CHAMPION)
    config = tmp_path / "nightly.yaml"
    plain = {"name": "tiny", "recipe": "folders", "steps": 2, "gates": GATES, "canary": {"k": 1, "min_precision": 0.0}}
    config.write_text(json.dumps({**plain, "settings": [*SETTINGS, f"data.shards=[{tmp_path / 'data'}]"]}))
    load(NightlyConfig, config)
    # Forked from a process that has all of it imported, which is most of the time that a start takes.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["viewfold.jobs.nightly_phases", "viewfold.pipeline.executor", "ray", "mlflow"])
    folder, known, code = tmp_path / "nightly" / "tiny", set[str](), None
    deadline = time.monotonic() + LONGEST_S
    while code is None:
        process = context.Process(target=start, args=(config, tmp_path))
        process.start()
        while process.is_alive() and done(folder) <= known:
            assert time.monotonic() < deadline, f"too slow: only {sorted(known)}"
            time.sleep(0.005)
        if process.is_alive():
            assert process.pid is not None
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        code = None if process.exitcode == -signal.SIGKILL else process.exitcode
        known = done(folder)
        champion = registry.find("tiny", CHAMPION)
        assert champion is not None
        IndexBundle.open(Path(champion.tags["bundle"]), encoder_id=champion.tags["encoder_id"])
    assert code == 0
    assert known == {*STAGES, *PHASES}
    (night,) = nights(folder)
    assert night.outcome == "promoted"
    new, old = registry.versions("tiny")
    assert (new.version, old.version, new.aliases) == ("2", "1", (CHALLENGER, CHAMPION))
    assert (new.tags["parent"], new.tags["replaces"], new.tags["validation_status"]) == ("1", "1", "passed")
    assert new.tags["run_folder"] == str(night.run.resolve())
