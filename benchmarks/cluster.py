"""Trainings on clusters whose nodes are slow, fail and come back, simulated over the stream's own planner.

Simulated is time: a step takes as long as its slowest rank, a lost node throws all ranks back to the last checkpoint,
and the number of ranks is what `Elastic.fitting` says of the nodes that are up. What is trained on is real: the rows of
every step come from `Plan.places`, asked by each rank that is alive for its own places, and each must be seen once in
an epoch, whatever was lost meanwhile.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from viewfold.pipeline.elastic import Elastic
from viewfold.pipeline.order import Plan

GPUS = 8
"""Of a node; each is one rank."""
HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Nodes that fail together with all their GPUs, each at exponential times."""

    nodes: int
    node_mtbf_s: float
    """Mean time between two failures of one node."""
    repair_s: float = 2 * HOUR
    """Until another node takes its place."""
    jitter: float = 0.0
    """Sigma of the lognormal factor (median 1) that every rank's every step takes."""
    stall_share: float = 0.0
    """Chance that a rank stalls in a step: a read that is tried again, a collection of garbage."""
    stall_s: float = 0.0
    """How much longer the step of a rank that stalls takes."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One run: how many steps, what they cost, and which numbers of ranks it may go on with."""

    steps: int
    batch: int
    sizes: tuple[int, ...]
    """Ascending numbers of ranks; each divides the batch."""
    sample_s: float
    """Of one rank, for each sample of its share of the batch."""
    fixed_s: float
    """Of every step, on any number of ranks: communication that computing does not hide."""
    checkpoint_every: int
    checkpoint_s: float
    restart_s: float
    """From a loss, or from the start of the run, to the first step."""
    look_every_s: float = 60.0
    """How often it is asked whether there is room for more ranks."""
    grow: Literal["now", "checkpoint"] = "now"
    """`now`: as `Elastic` does, throwing away the steps since the checkpoint. `checkpoint`: right after the next."""

    def step_s(self, ranks: int) -> float:
        """A step to which nothing happens."""
        return self.batch / ranks * self.sample_s + self.fixed_s


@dataclass(frozen=True)
class Attempt:
    """What one group of ranks did: steps `first` to `reached`, of which those before `kept` outlived it."""

    ranks: int
    first: int
    kept: int
    reached: int
    begin_s: float
    end_s: float
    ended: Literal["lost", "grew", "done"]


@dataclass
class Nodes:
    """Which nodes are up, as time goes on."""

    cluster: Cluster
    draw: np.random.Generator
    up: NDArray[np.bool_] = field(init=False)
    change_s: NDArray[np.float64] = field(init=False)
    """When each node fails, or is back."""

    def __post_init__(self) -> None:
        self.up = np.ones(self.cluster.nodes, dtype=bool)
        self.change_s = self.draw.exponential(self.cluster.node_mtbf_s, self.cluster.nodes)

    def forward(self, now: float) -> None:
        """All that happens until `now`."""
        while (node := int(self.change_s.argmin())) >= 0 and self.change_s[node] <= now:
            lived = 0.0 if self.up[node] else float(self.draw.exponential(self.cluster.node_mtbf_s))
            self.change_s[node] += self.cluster.repair_s if self.up[node] else lived
            self.up[node] = not self.up[node]

    def fitting(self, training: Training) -> int:
        """The largest size of the training that the nodes have room for."""
        nodes = [{"GPU": float(GPUS)}] * int(self.up.sum())
        return Elastic(training.sizes, training.look_every_s).fitting(nodes, {"GPU": 1})


def simulated(cluster: Cluster, training: Training, *, seed: int = 0) -> list[Attempt]:
    """The groups of ranks that came one after the other until every step was done and in a checkpoint."""
    nodes = Nodes(cluster, np.random.default_rng(seed))
    attempts: list[Attempt] = []
    now, kept = 0.0, 0
    while kept < training.steps:
        nodes.forward(now)
        if ranks := nodes.fitting(training):
            attempts.append(_attempt(nodes, training, ranks, kept, now))
            now, kept = attempts[-1].end_s, attempts[-1].kept
        else:
            now = float(nodes.change_s.min())
    return attempts


def _attempt(nodes: Nodes, training: Training, ranks: int, kept: int, begin: float) -> Attempt:
    members = np.flatnonzero(nodes.up)[: -(-ranks // GPUS)]
    lost = float(nodes.change_s[members].min())
    first, now = kept, begin + training.restart_s
    growing = partial(_grows_at, nodes, training, ranks) if ranks < training.sizes[-1] else _never
    look = now + training.look_every_s
    while now < lost:
        took = _step_times(nodes, training, ranks, min(training.checkpoint_every, training.steps - kept))
        end = now + float(took.sum()) + training.checkpoint_s
        grown = growing(look, min(end, lost))
        look += max(0, math.ceil((end - look) / training.look_every_s)) * training.look_every_s
        if end <= min(lost, grown) or (end <= lost and training.grow == "checkpoint"):
            kept, now = kept + len(took), end
            if kept == training.steps:
                return Attempt(ranks, first, kept, kept, begin, now, "done")
            if grown <= end:
                return Attempt(ranks, first, kept, kept, begin, now, "grew")
        else:
            cut = lost if training.grow == "checkpoint" else min(lost, grown)
            reached = kept + int(np.searchsorted(took.cumsum(), cut - now, side="right"))
            return Attempt(ranks, first, kept, reached, begin, cut, "lost" if cut == lost else "grew")
    return Attempt(ranks, first, kept, kept, begin, lost, "lost")


def _step_times(nodes: Nodes, training: Training, ranks: int, steps: int) -> NDArray[np.float64]:
    """Seconds of some steps, of the slowest rank of each."""
    cluster, factor, stalled = nodes.cluster, np.ones(steps), np.zeros(steps, dtype=bool)
    if cluster.jitter:
        largest = nodes.draw.random(steps) ** (1 / ranks)  # where the largest of as many uniform numbers lies
        factor = np.exp(cluster.jitter * torch.special.ndtri(torch.from_numpy(largest)).numpy())
    if cluster.stall_share:
        stalled = nodes.draw.random(steps) < 1 - (1 - cluster.stall_share) ** ranks
    return training.batch / ranks * training.sample_s * factor + training.fixed_s + cluster.stall_s * stalled


def _grows_at(nodes: Nodes, training: Training, ranks: int, look: float, end: float) -> float:
    """The first look before `end` that finds room for more ranks; infinity if none does."""
    while look < end:
        nodes.forward(look)
        if nodes.fitting(training) > ranks:
            return look
        look += training.look_every_s
    return math.inf


def _never(look: float, end: float) -> float:
    return math.inf


def goodput(training: Training, attempts: Sequence[Attempt]) -> float:
    """Share of the time that all ranks with nothing in their way would have needed."""
    return training.steps * training.step_s(training.sizes[-1]) / attempts[-1].end_s


def daly_seconds(cluster: Cluster, training: Training) -> float:
    """Expected seconds where lost nodes are replaced at once: Daly 2006, which is exact for exponential times."""
    mtbf = cluster.node_mtbf_s / cluster.nodes
    segment = training.checkpoint_every * training.step_s(training.sizes[-1]) + training.checkpoint_s
    each = mtbf * math.exp(training.restart_s / mtbf) * math.expm1(segment / mtbf)
    return each * training.steps / training.checkpoint_every


def young_steps(cluster: Cluster, training: Training) -> float:
    """Steps between checkpoints that lose least, by the first order: sqrt(2 x checkpoint x MTBF) (Young 1974)."""
    mtbf = cluster.node_mtbf_s / cluster.nodes
    return math.sqrt(2 * training.checkpoint_s * mtbf) / training.step_s(training.sizes[-1])


def seen(plan: Plan, attempts: Sequence[Attempt]) -> NDArray[np.int64]:
    """How often each row of epoch 0 was trained on, in the steps that were kept, over all ranks of each attempt.

    Steps that were lost and done again are asked for again, by the ranks of then.

    Raises:
        ValueError: a step that was done again had another batch.
    """
    counts = np.zeros(plan.num_samples, dtype=np.int64)
    batches: dict[int, int] = {}
    for attempt in attempts:
        local = plan.global_batch // attempt.ranks
        for step in range(attempt.first, attempt.reached):
            parts = [plan.places(step, rank * local, (rank + 1) * local) for rank in range(attempt.ranks)]
            batch = zlib.crc32(b"".join(part.rows.tobytes() for part in parts))
            if batches.setdefault(step, batch) != batch:
                raise ValueError(f"step {step} has another batch on {attempt.ranks} ranks")
            if step < attempt.kept:
                for part in parts:
                    np.add.at(counts, part.rows[(part.epochs == 0) & ~part.repeated], 1)
    return counts


def misplaced(plan: Plan, attempts: Sequence[Attempt]) -> int:
    """How many samples before and after each change of ranks do not stand where `Plan.find` says that they do.

    For plans too large to be asked for every step: the first place of the first, the middle and the last rank.
    """
    wrong = 0
    for before, after in pairwise(attempts):
        for step, ranks in ((before.kept - 1, before.ranks), (after.first, after.ranks)):
            for rank in (0, ranks // 2, ranks - 1):
                place = rank * (plan.global_batch // ranks)
                part = plan.places(max(step, 0), place, place + 1)
                wrong += plan.find(int(part.rows[0]), int(part.epochs[0])) != (max(step, 0), place)
    return wrong
