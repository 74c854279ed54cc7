"""Work on Ray: a local one that starts by itself, or the cluster that RAY_ADDRESS names.

Each function imports Ray by itself: what only reads a configuration is not made to wait for it.

Ray's own talk (banners, `(Worker pid=...)` lines, warnings) goes to its log folder; VIEWFOLD_VERBOSE=1 brings it to the
terminal. Errors of ours and of the system that a worker raises arrive as themselves.
"""

import logging
import math
import os
import secrets
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from viewfold.errors import InvalidInput, MissingDependency, TrainingStopped, ViewfoldError
from viewfold.pipeline.elastic import Elastic, count_attempt
from viewfold.pipeline.interrupt import kept_signals
from viewfold.pipeline.ray_place import ADDRESS, LOCAL, first_line, look_at, not_started
from viewfold.pipeline.ray_train import (
    cause_of,
    elastic_trainer,
    interruptible_trainer,
    loaded_train,
    stop_on_our_errors,
    train_environment,
    worker_variables,
)

if TYPE_CHECKING:
    import torch

VERBOSE = "VIEWFOLD_VERBOSE"
P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")


@contextmanager
def ray_session() -> Iterator[None]:
    """Ray for the block: the one this process already uses, else the cluster of RAY_ADDRESS, else a local one.

    What was started or connected here ends with the block.

    Raises:
        InvalidInput: no cluster answers at RAY_ADDRESS.
        MissingDependency: Ray is not installed.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingDependency("running work needs Ray: pip install 'viewfold[train]'") from error
    if ray.is_initialized():
        yield
        return
    verbose = bool(os.environ.get(VERBOSE))
    address = os.environ.get(ADDRESS) or LOCAL
    options: dict[str, Any] = {}
    if address == LOCAL:
        options["include_dashboard"] = False
        if "RAY_AUTH_TOKEN_PATH" not in os.environ:  # Ray would make one at home, where two first starts race for it
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        look_at(address)
        with kept_signals():  # Ray's own end by SIGTERM prints its stack, and aborts the process after 3 s
            level = logging.INFO if verbose else logging.ERROR
            ray.init(address, log_to_driver=verbose, logging_level=level, **options)
    except (OSError, RuntimeError) as error:
        raise not_started(address, error) from None
    try:
        yield
    finally:
        ray.shutdown()


def map_ray(fn: Callable[[T], R], items: Iterable[T], *, num_cpus: float = 1) -> Iterator[R]:
    """`fn` (a function of a module) of each item, in the order of the items, in tasks of `num_cpus` logical CPUs each.

    Items are taken as tasks end: only some for each CPU are under way. Use inside of `ray_session()`.

    Raises:
        TrainingStopped: a worker process was lost, three times for one item.
    """
    import ray

    call: Any = ray.remote(_call).options(num_cpus=_share("CPU", num_cpus, 1), max_retries=2)
    fn_ref = ray.put(fn)
    in_flight = 2 * max(1, round(_total("CPU") / num_cpus))
    return _in_order((partial(call.remote, fn_ref, item) for item in items), in_flight)


def map_actors(
    make: Callable[..., Callable[[T], R]],
    args: tuple[Any, ...],
    items: Iterable[T],
    *,
    num_actors: int,
    num_cpus: float = 1,
    num_gpus: float = 0,
) -> Iterator[R]:
    """`make(*args)` once in each of `num_actors` processes, then its call of each item, in the order of the items.

    Items go to the actors in turn and are taken as answers are: two for each actor are under way. On one machine actors
    share the CPUs and GPUs there are. Use inside of `ray_session()`.

    Raises:
        TrainingStopped: an actor was lost, three times.
    """
    import ray

    resources = {"num_cpus": _share("CPU", num_cpus, num_actors), "num_gpus": _share("GPU", num_gpus, num_actors)}
    actor_class: Any = ray.remote(_Actor)
    actor = actor_class.options(max_restarts=2, max_task_retries=2, **resources)
    actors = [actor.remote(make, args) for _ in range(num_actors)]
    return _by_turns(actors, items)


@dataclass(frozen=True)
class Worker:
    """One rank of a distributed run, inside of the function given to `run_workers`; the process group is made."""

    rank: int
    """Ranks of one machine follow one another."""
    world_size: int
    attempt: int
    """Groups of workers that began on this run before this one, in earlier calls too: the same on all ranks."""
    device: "torch.device"

    @contextmanager
    def checkpoint(self) -> Iterator[Path | None]:
        """The latest whole checkpoint of this run, with the files of all ranks, if there is one."""
        latest = loaded_train().get_checkpoint()
        if latest is None:
            yield None
            return
        with latest.as_directory() as folder:
            yield Path(folder)

    @contextmanager
    def checkpoint_folder(self) -> Iterator[Path]:
        """An empty folder for this rank's files of a checkpoint; it is gone after the block, so report it inside."""
        folder = Path(tempfile.mkdtemp(prefix="viewfold-"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    def report(self, metrics: dict[str, Any], checkpoint: Path | None = None) -> None:
        """Hand in `metrics`, and the folder with this rank's files of a checkpoint. A call of all ranks.

        The folders of all ranks become one, `step-N` in the storage of the run, where N is `metrics["step"]`; names of
        files must differ between ranks. It counts as a checkpoint when all ranks have handed theirs in.
        """
        train = loaded_train()
        if checkpoint is None:
            train.report(metrics)
            return
        folder = train.Checkpoint.from_directory(checkpoint)
        train.report(metrics, checkpoint=folder, checkpoint_dir_name=f"step-{metrics['step']}")


def run_workers(
    fn: Callable[[Worker, P], Any],
    payload: P,
    *,
    num_workers: int | Elastic,
    storage: Path,
    name: str,
    max_failures: int = 0,
    use_gpu: bool = False,
) -> Any:
    """`fn(worker, payload)` on `num_workers` Ray Train workers that form a process group; returns what rank 0 returns.

    gloo on CPUs; nccl on GPUs, one for each worker. On one machine the workers share the CPUs there are. The last two
    checkpoints are kept in `storage/name`, which all workers must reach; a call that finds some there, of a run that
    was cut, goes on from the last. When workers are lost or fail, all are started again from the last checkpoint, up
    to `max_failures` times; a ViewfoldError ends the run at once. An `Elastic` number starts as many as there is room
    for, then and when some are lost, and starts all again from the last checkpoint when there is room for more. What
    is returned holds no tensors. Use inside of `ray_session()`.

    Raises:
        InvalidInput: this machine has fewer GPUs than workers.
        TrainingStopped: more workers were lost than `max_failures` allows.
    """
    elastic = num_workers if isinstance(num_workers, Elastic) else Elastic((num_workers,))
    fewest, most = elastic.sizes[0], elastic.sizes[-1]
    if use_gpu and _one_machine() and (gpus := _total("GPU")) < fewest:
        raise InvalidInput(f"{fewest} workers need a GPU each and this machine has {gpus:.0f}; ask for fewer workers")
    train = loaded_train()
    needs = {"CPU": _share("CPU", 1, most)} | ({"GPU": 1} if use_gpu else {})
    trainer_class, size = interruptible_trainer(), dict[str, Any](num_workers=most)
    if fewest < most:
        trainer_class = elastic_trainer(elastic, needs)
        size = {"num_workers": (fewest, most), "elastic_resize_monitor_interval_s": elastic.look_every_s}
    with train_environment(one_machine=_one_machine()):
        trainer = trainer_class(
            _train_worker,
            train_loop_config={"fn": fn, "payload": payload, "folder": storage.resolve() / name},
            scaling_config=train.ScalingConfig(**size, use_gpu=use_gpu, resources_per_worker=needs),
            run_config=train.RunConfig(
                name=name,
                storage_path=str(storage.resolve()),
                failure_config=train.FailureConfig(max_failures=max_failures),
                checkpoint_config=train.CheckpointConfig(num_to_keep=2),
                callbacks=[stop_on_our_errors()],
                logging_config=train.LoggingConfig(log_level="INFO" if os.environ.get(VERBOSE) else "ERROR"),
                worker_runtime_env={"env_vars": worker_variables()},
            ),
        )
        try:
            return trainer.fit().return_value
        except train.TrainingFailedError as error:
            cause = cause_of(error, storage / name)
            raise cause from (None if isinstance(cause, ViewfoldError) else error)


def has_gpus() -> bool:
    """Whether work can ask for GPUs: those of the cluster, which the machine of this process may well not have.

    Use inside of `ray_session()`.
    """
    if not _total("GPU"):
        return False
    import torch

    return not _one_machine() or torch.cuda.is_available()  # Ray also counts those that the torch here cannot use


class _Actor:
    """Builds its function at the first call, where an error arrives as an error of that call."""

    def __init__(self, make: Callable[..., Callable[[Any], Any]], args: tuple[Any, ...]) -> None:
        self.make = make
        self.args = args
        self.fn: Callable[[Any], Any] | None = None

    def call(self, item: Any) -> Any:
        if self.fn is None:
            self.fn = self.make(*self.args)
        return self.fn(item)


def _call(fn: Callable[[T], R], item: T) -> R:
    return fn(item)


def _by_turns(actors: Sequence[Any], items: Iterable[Any]) -> Iterator[Any]:
    import ray

    calls = (partial(actor.call.remote, item) for actor, item in zip(cycle(actors), items, strict=False))
    try:
        yield from _in_order(calls, 2 * len(actors))
    finally:
        # An error's traceback would keep the actors, and their CPUs, alive. A session may end before its iterators.
        for actor in actors if ray.is_initialized() else []:
            ray.kill(actor)


def _in_order(calls: Iterable[Callable[[], Any]], in_flight: int) -> Iterator[Any]:
    window: deque[Any] = deque()
    for call in calls:
        window.append(call())
        if len(window) == in_flight:
            yield _answer(window.popleft())
    while window:
        yield _answer(window.popleft())


def _answer(ref: Any) -> Any:
    import ray

    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, ViewfoldError | OSError) else error from None
    except (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        raise TrainingStopped(
            f"a worker process was lost (out of memory, or killed): {first_line(error)}; "
            "use fewer or smaller workers, or give the machine more memory"
        ) from None


def _train_worker(config: dict[str, Any]) -> Any:
    import torch

    train = loaded_train()
    context = train.get_context()
    rank, device = context.get_world_rank(), train.torch.get_device()
    attempt = torch.tensor(count_attempt(config["folder"]) if rank == 0 else 0, device=device)
    torch.distributed.broadcast(attempt, src=0)
    worker = Worker(rank, context.get_world_size(), int(attempt), device)
    return config["fn"](worker, config["payload"])


def _share(kind: str, wanted: float, count: int) -> float:
    """What each of `count` processes may ask for: on one machine all must fit at once, or the first waits forever."""
    if not wanted or not _one_machine():
        return wanted
    if not (total := _total(kind)):
        raise InvalidInput(f"{wanted:g} {kind} for each worker: this machine has none")
    return min(wanted, math.floor(1e4 * total / count) / 1e4)  # Ray counts in steps of 1e-4


def _total(kind: str) -> float:
    import ray

    return float(ray.cluster_resources().get(kind, 0))  # type: ignore[no-untyped-call]


def _one_machine() -> bool:
    import ray

    return sum(node["Alive"] for node in ray.nodes()) == 1  # type: ignore[no-untyped-call]
