"""Work on a real Ray: order, bounds, ranks that meet, checkpoints that outlive a killed worker, errors of one line."""

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import wait_until

from viewfold.errors import InvalidInput, ShardError, TrainingStopped
from viewfold.pipeline.executor import Worker, has_gpus, map_actors, map_ray, ray_session, run_workers

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("ray_local")]


class Adder:
    """Adds `n`, and tells in which process."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self, item: int) -> tuple[int, int]:
        if item == 7:
            raise ShardError("a-000000.tar", "broken", "k")
        if item < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.2 if item == 0 else 0)  # the first ends last
        return item + self.n, os.getpid()


def refuse(n: int) -> Callable[[int], int]:
    raise InvalidInput(f"no function for {n}")


def square(item: int) -> int:
    if item == 7:
        raise InvalidInput("seven is not wanted")
    time.sleep(0.2 if item == 0 else 0)
    return item * item


def taken(items: Iterator[int], log: list[int]) -> Iterator[int]:
    for item in items:
        log.append(item)
        yield item


def test_actors_answer_in_order_and_are_built_once() -> None:
    answers = list(map_actors(Adder, (10,), range(8 - 1), num_actors=2))
    assert [value for value, _ in answers] == list(range(10, 17))
    assert len({process for _, process in answers}) == 2


def test_only_some_items_are_under_way() -> None:
    for_actors, for_tasks = list[int](), list[int]()
    next(map_actors(Adder, (10,), taken(iter(range(8, 100)), for_actors), num_actors=2))
    next(map_ray(square, taken(iter(range(8, 100)), for_tasks)))
    assert len(for_actors) == 4
    assert len(for_tasks) == 2, "twice the one core that the fixture's machine has"


def test_tasks_answer_in_order() -> None:
    assert list(map_ray(square, range(6))) == [0, 1, 4, 9, 16, 25]


def test_an_error_of_ours_arrives_as_itself() -> None:
    with pytest.raises(ShardError) as broken:
        list(map_actors(Adder, (10,), [6, 7], num_actors=1))
    assert (str(broken.value), broken.value.key) == ("a-000000.tar: k: broken", "k")
    assert broken.value.__suppress_context__
    with pytest.raises(InvalidInput, match=r"^no function for 3$"):
        list(map_actors(refuse, (3,), range(4), num_actors=2))
    with pytest.raises(InvalidInput, match=r"^seven is not wanted$"):
        list(map_ray(square, [7]))


def test_an_actor_that_keeps_dying_is_one_line() -> None:
    with pytest.raises(TrainingStopped, match=r"^a worker process was lost .*[^\n]*$"):
        list(map_actors(Adder, (10,), [-1], num_actors=1))


def test_what_no_machine_here_has_is_refused(tmp_path: Path) -> None:
    assert not has_gpus()
    with pytest.raises(InvalidInput, match=r"1 GPU for each worker: this machine has none"):
        map_actors(Adder, (10,), [1], num_actors=2, num_gpus=1)
    with pytest.raises(InvalidInput, match=r"2 workers need a GPU each and this machine has 0"):
        run_workers(meet, 0, num_workers=2, storage=tmp_path, name="gpu", use_gpu=True)


def meet(worker: Worker, last_step: int, die: Path | None = None) -> dict[str, Any]:
    """Sum over ranks at each step, with a checkpoint; rank 1 is killed once in step 4 when `die` can be made."""
    import torch
    import torch.distributed

    with worker.checkpoint() as folder:
        start = 0 if folder is None else int((folder / "rank-0").read_text())
        found = [] if folder is None else sorted(path.name for path in folder.iterdir())
    total = torch.zeros(1, device=worker.device)
    for step in range(start + 1, last_step + 1):
        total = torch.tensor([10.0 * step + worker.rank])
        torch.distributed.all_reduce(total)
        if die is not None and step == 4 and worker.rank == 1 and not die.exists():
            wait_until(lambda: registered(die.with_name("checkpoints"), 3), seconds=240)
            die.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        with worker.checkpoint_folder() as folder:
            (folder / f"rank-{worker.rank}").write_text(str(step))
            worker.report({"step": step}, folder)
    facts = {
        "attempt": worker.attempt,
        "ranks": worker.world_size,
        "folder": os.getcwd(),
        "omp": os.environ["OMP_WAIT_POLICY"],
        "trim": os.environ["MALLOC_TRIM_THRESHOLD_"],
    }
    return {"start": start, "found": found, "total": total.item(), **facts}


def registered(folder: Path, step: int) -> bool:
    """Whether Ray Train has taken note of the checkpoint of `step`, to which it then goes back."""
    notes = folder / "checkpoint_manager_snapshot.json"
    return notes.is_file() and f'"step-{step}"' in notes.read_text()


def meet_and_die(worker: Worker, die: Path) -> dict[str, Any]:
    return meet(worker, 5, die)


@pytest.mark.slow
def test_a_killed_worker_costs_the_steps_since_the_checkpoint(tmp_path: Path) -> None:
    result = run_workers(
        meet_and_die, tmp_path / "died", num_workers=2, storage=tmp_path, name="checkpoints", max_failures=1
    )
    assert (tmp_path / "died").exists()
    assert (result["start"], result["attempt"]) == (3, 1)
    assert result["found"] == ["rank-0", "rank-1"]
    assert result["total"] == 50 + 51, "both ranks, in the last step"
    assert result["folder"] == os.getcwd(), "relative paths mean the same in a worker"
    assert result["omp"] == "PASSIVE", "threads that spin would take the other workers' cores"
    assert int(result["trim"]) > 2**20, "memory of a step would be given back, and paid for again"
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith("step"))
    assert kept == ["step-4", "step-5"]
    again = run_workers(meet, 6, num_workers=2, storage=tmp_path, name="checkpoints")
    assert (again["start"], again["total"]) == (5, 60 + 61), "another call goes on where the first one ended"
    assert again["attempt"] == 2


def fail(worker: Worker, payload: tuple[str, Path]) -> None:
    """Rank 1 fails in a way of its own while rank 0 waits for it in a collective."""
    import torch
    import torch.distributed

    how, log = payload
    with log.open("a") as file:
        file.write(f"{worker.rank}\n")
    torch.distributed.barrier()
    if worker.rank == 1:
        time.sleep(0.5)
        if how == "shard":
            raise ShardError("a-000000.tar", "broken", "k")
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise KeyError(how)
    torch.distributed.all_reduce(torch.ones(1))


@pytest.mark.slow
def test_an_error_of_ours_ends_the_run_at_once(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"^a-000000\.tar: k: broken$") as broken:
        run_workers(
            fail, ("shard", tmp_path / "log"), num_workers=2, storage=tmp_path, name="checkpoints", max_failures=5
        )
    assert broken.value.__suppress_context__
    assert sorted((tmp_path / "log").read_text().split()) == ["0", "1"], "each rank ran once"


@pytest.mark.slow
def test_workers_lost_too_often_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped, match=r"checkpoints: a worker process was lost .*[^\n]*$"):
        run_workers(fail, ("killed", tmp_path / "log"), num_workers=2, storage=tmp_path, name="checkpoints")


@pytest.mark.slow
def test_any_other_error_keeps_its_traceback_from_the_worker(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="mistake") as raised:
        run_workers(fail, ("mistake", tmp_path / "log"), num_workers=2, storage=tmp_path, name="checkpoints")
    assert "test_pipeline_executor.py" in str(raised.value.__cause__)


def chatter(worker: Worker, ready: Path | None) -> int:
    """Everything that must not reach a terminal; then waits if there is a file to make."""
    print("from the worker")
    print("from the worker", file=sys.stderr)
    warnings.warn("from the worker", stacklevel=1)
    if ready is not None:
        ready.touch()
        time.sleep(600)
    return worker.world_size


SCRIPT = """
import signal
from pathlib import Path
from test_pipeline_executor import chatter
from viewfold.pipeline.executor import ray_session, run_workers
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it starts in the background ignore it
try:
    with ray_session():
        print(run_workers(chatter, {ready!r}, num_workers=2, storage=Path({storage!r}), name="checkpoints"))
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.slow
def test_the_terminal_shows_what_the_program_prints_and_nothing_else(tmp_path: Path) -> None:
    script = SCRIPT.format(ready=None, storage=str(tmp_path))
    ran = subprocess.run([sys.executable, "-c", script], env=own_ray(), check=False, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("2\n", "", 0)


@pytest.mark.slow
def test_control_c_is_a_keyboard_interrupt(tmp_path: Path) -> None:
    script = SCRIPT.format(ready=tmp_path / "ready", storage=str(tmp_path)).replace("PosixPath", "Path")
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script], env=own_ray(), **pipes) as process:
        try:
            wait_until(lambda: (tmp_path / "ready").exists() or process.poll() is not None, seconds=300)
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=300) == ("interrupted\n", "")
        finally:
            process.kill()  # else the end of the block waits for it


def test_a_session_inside_another_leaves_it_open() -> None:
    with ray_session():
        pass
    assert list(map_ray(square, [2])) == [4]


def test_an_address_where_nobody_listens_is_refused_at_once() -> None:
    script = "from viewfold.pipeline.executor import ray_session\nwith ray_session(): pass"
    environment = own_ray() | {"RAY_ADDRESS": "127.0.0.1:9"}
    ran = subprocess.run([sys.executable, "-c", script], env=environment, check=False, capture_output=True, text=True)
    assert ran.stderr.splitlines()[-1].startswith(
        "viewfold.errors.InvalidInput: RAY_ADDRESS=127.0.0.1:9: no Ray cluster answers there"
    )


def test_a_local_ray_writes_nothing_into_the_home_folder(tmp_path: Path) -> None:
    script = (
        "from test_pipeline_executor import square; from viewfold.pipeline.executor import map_ray, ray_session\n"
        "for _ in range(2):\n  with ray_session(): print(list(map_ray(square, range(3))))"
    )
    environment = own_ray() | {"HOME": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", script], env=environment, check=False, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("[0, 1, 4]\n[0, 1, 4]\n", "")
    assert not (tmp_path / ".ray").exists()


def test_an_address_is_connected_to() -> None:
    import ray

    script = (
        "from test_pipeline_executor import square; from viewfold.pipeline.executor import map_ray, ray_session\n"
        "with ray_session(): print(list(map_ray(square, range(3))))"
    )
    access = {name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    environment = own_ray() | access | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    ran = subprocess.run([sys.executable, "-c", script], env=environment, check=False, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("[0, 1, 4]\n", "")
    assert list(map_ray(square, [2])) == [4], "the cluster lives on"


def own_ray() -> dict[str, str]:
    """The environment of a process that shares nothing with the Ray of this test session but the search path."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
