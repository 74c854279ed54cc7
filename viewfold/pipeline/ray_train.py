"""Ray Train as runs here need it: its trainers without what they do unasked, its settings, and why a run failed."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from viewfold.errors import TrainingStopped, ViewfoldError
from viewfold.pipeline.elastic import Elastic
from viewfold.pipeline.ray_place import first_line

_WORKER_VARIABLES = {
    # A thread of OpenMP that waits by spinning takes the core another worker needs: steps 15 times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
    # glibc gives a step's memory back to the system, and the next step pays for it anew: 15 % of its time on a CPU.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),  # the most that it takes
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
}


def worker_variables() -> dict[str, str]:
    """Variables of the environment that a worker's process begins with; what the user has set stays."""
    return {name: os.environ.get(name, value) for name, value in _WORKER_VARIABLES.items()}


def loaded_train() -> Any:
    """Ray Train, imported where it is used, for it takes 2 s. Untyped: its annotations are those of Ray Train V1."""
    import ray.train.torch

    return ray.train


def interruptible_trainer() -> Any:
    """Ray's trainer, less its taking over of SIGINT, after which a process ends with 0 or 1, whoever ends it.

    There is no public way to it. The workers end with the session, as those of any actor do.
    """

    class Trainer(loaded_train().torch.TorchTrainer):  # type: ignore[misc]
        def _register_sigint_handler(self, controller: Any) -> None:
            pass

    return Trainer


def elastic_trainer(elastic: Elastic, needs: dict[str, float]) -> Any:
    """Ray's trainer, with a say in how many workers there are, for which there is no public way in.

    Ray 2.60 itself takes any number between two. It counts wrongly where workers share a CPU (of 2 CPUs in five shares
    of 0.4 it finds 4), and counts on nodes for 20 s after they are gone, for which it then waits a minute.
    """
    import ray
    from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy

    class ChosenSizes(ElasticScalingPolicy):
        def _count_possible_workers(self, reserved_resources: dict[str, dict[str, float]]) -> int:
            alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
            return elastic.fitting((free for node, free in reserved_resources.items() if node in alive), needs)

    class Trainer(interruptible_trainer()):  # type: ignore[misc]
        def _initialize_and_run_controller(self, **settings: Any) -> Any:
            settings["scaling_policy"] = ChosenSizes(self.scaling_config)
            return super()._initialize_and_run_controller(**settings)

    return Trainer


def stop_on_our_errors() -> Any:
    """Ray would start the workers again after any error; input that cannot be used will not get better by that."""

    class StopOnOurErrors(loaded_train().UserCallback):  # type: ignore[misc]
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            for error in worker_exceptions.values():
                if isinstance(error, ViewfoldError):
                    raise error

    return StopOnOurErrors()


def cause_of(error: Any, folder: Path) -> Exception:
    """What made a run of Ray Train fail: our own error before a lost process before the first error of a rank."""
    ended_by_controller = isinstance(error, loaded_train().ControllerError)
    failures = [error.controller_failure] if ended_by_controller else list(error.worker_failures.values())
    ours = [failure for failure in failures if isinstance(failure, ViewfoldError)]
    lost = any(type(failure).__module__.startswith("ray.") for failure in failures)  # Ray's own word for it, no rank's
    if not ours and lost:
        return TrainingStopped(
            f"{folder}: a worker process was lost (out of memory, or killed: {first_line(failures[0])}); "
            "the same command goes on from the last checkpoint, with a smaller batch if memory was short"
        )
    return (ours or failures)[0]


@contextmanager
def train_environment(*, one_machine: bool) -> Iterator[None]:
    """Settings that Ray Train reads from the environment alone, less its warnings; what the user has set stays."""
    settings = {"RAY_CHDIR_TO_TRIAL_DIR": "0"}  # relative paths mean in a worker what they mean here
    if one_machine:
        settings |= {
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # 2 s otherwise, which every report and every end waits for
            "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process that waits for a cluster to take the machine away
            "RAY_TRAIN_METRICS_ENABLED": "0",  # for a dashboard, which is not started
        }
    ours = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        with warnings.catch_warnings():
            # Ray 2.60: Train makes a context of Ray Data, three of whose own defaults are deprecated there.
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ray\.data\.context$")
            yield
    finally:
        for name in ours:
            del os.environ[name]
