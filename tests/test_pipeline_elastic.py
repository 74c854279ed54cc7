"""How many workers there are: what fits, and a real cluster of three nodes that loses one and gets another."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from viewfold.pipeline.elastic import Elastic, count_attempt

if TYPE_CHECKING:
    from viewfold.pipeline.executor import Worker

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("nodes", "needs", "fitting"),
    [
        ([{"CPU": 4}, {"CPU": 4}], {"CPU": 1}, 8),
        ([{"CPU": 4}, {"CPU": 3.5}], {"CPU": 1}, 4),
        ([{"CPU": 64}, {"CPU": 64, "GPU": 2}, {"CPU": 1, "GPU": 4}], {"CPU": 1, "GPU": 1}, 2),
        ([{"CPU": 0.5}] * 9, {"CPU": 1}, 0),
        ([{"CPU": 8 * 0.2222}], {"CPU": 0.2222}, 8),
        ([{"CPU": 100}], {"CPU": 1}, 8),
        ([], {"CPU": 1}, 0),
    ],
)
def test_the_largest_size_that_fits_is_taken(
    nodes: list[dict[str, float]], needs: dict[str, float], fitting: int
) -> None:
    assert Elastic((1, 2, 4, 8)).fitting(nodes, needs) == fitting


@pytest.mark.parametrize("sizes", [(), (0, 1), (2, 1), (1, 1)])
def test_sizes_that_are_none_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="ascending numbers of workers"):
        Elastic(sizes)


def test_groups_of_a_run_are_numbered_across_processes(tmp_path: Path) -> None:
    assert [count_attempt(tmp_path) for _ in range(3)] == [0, 1, 2]
    (tmp_path / "attempts.part").write_text("")  # of a process that was killed
    assert count_attempt(tmp_path) == 3


def climb(worker: "Worker", log: Path) -> dict[str, Any]:
    """One checkpoint a step, until 3, then 1, then 3 workers have taken steps; the checkpoint holds who took which."""
    import ray
    import torch.distributed as dist

    with worker.checkpoint() as folder:
        history = [] if folder is None else json.loads((folder / "history").read_text())
    nodes: list[Any] = [None] * worker.world_size
    dist.all_gather_object(nodes, ray.get_runtime_context().get_node_id())
    while groups(history) != [3, 1, 3]:
        together: list[Any] = [None] * worker.world_size
        dist.all_gather_object(together, worker.attempt)
        history.append({"attempts": together, "start": len(history)})
        with worker.checkpoint_folder() as folder:
            if worker.rank == 0:
                (folder / "history").write_text(json.dumps(history))
            worker.report({"step": len(history)}, folder)
        if worker.rank == 0:
            log.write_text(json.dumps(history))
        time.sleep(0.1)
    return {"history": history, "nodes": nodes}


def groups(history: list[dict[str, Any]]) -> list[int]:
    """The sizes of the groups that took the steps, one after the other."""
    return [size for size, _ in groupby(len(step["attempts"]) for step in history)]


def history_in(log: Path) -> list[dict[str, Any]]:
    try:
        history: list[dict[str, Any]] = json.loads(log.read_text())
    except (FileNotFoundError, ValueError):  # not begun, or half written
        return []
    return history


def lose_and_gain_a_node(storage: Path) -> None:
    """Two CPUs on one node and one on another, which is killed; two workers would fit on the first, but may not."""
    import test_pipeline_elastic as this  # by its name, for the workers
    from ray.cluster_utils import Cluster

    from viewfold.pipeline.executor import ray_session, run_workers

    log = storage / "log"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=2)
    lost = cluster.add_node(num_cpus=1)
    os.environ["RAY_ADDRESS"] = cluster.address
    sizes = Elastic((1, 3), look_every_s=1)
    with ray_session(), ThreadPoolExecutor(1) as pool:  # nodes can be added by the main thread only
        running = pool.submit(
            run_workers, this.climb, log, num_workers=sizes, storage=storage, name="checkpoints", max_failures=3
        )
        while len(history_in(log)) <= 3 and not running.done():
            time.sleep(0.1)
        cluster.remove_node(lost, allow_graceful=False)
        while groups(history_in(log)) != [3, 1] and not running.done():
            time.sleep(0.1)
        cluster.add_node(num_cpus=1)
        (storage / "result").write_text(json.dumps(running.result()))
    cluster.shutdown()  # type: ignore[no-untyped-call]


@pytest.mark.heavy
@pytest.mark.slow
def test_a_group_restarts_smaller_and_larger_and_goes_on(tmp_path: Path) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    quick = {  # how soon a cluster finds out that a node is gone
        "RAY_health_check_initial_delay_ms": "500",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_failure_threshold": "5",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
        "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": f"{CHECKOUT}{os.pathsep}{CHECKOUT / 'tests'}",
    }
    script = "import sys, pathlib, test_pipeline_elastic as t; t.lose_and_gain_a_node(pathlib.Path(sys.argv[1]))"
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env=own | quick,
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr
    result = json.loads((tmp_path / "result").read_text())
    history, nodes = result["history"], result["nodes"]
    assert groups(history) == [3, 1, 3], "one worker, though two would have fitted"
    assert [step["start"] for step in history] == list(range(len(history))), "no step is missing, none twice"
    attempts = [step["attempts"][0] for step in history]
    assert attempts == sorted(attempts)
    assert len(set(attempts)) == 3
    assert all(len(set(step["attempts"])) == 1 for step in history), "all ranks have the same number"
    assert len([*groupby(nodes)]) == len(set(nodes)) == 2, "ranks of one node follow one another"
