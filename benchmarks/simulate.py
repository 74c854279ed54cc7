"""What losses, slow ranks and resizing cost a training of 10^9 samples, and that each sample is still seen once.

A simulation (`benchmarks.cluster`): no clock is read, and the same seed gives the same record on any machine. The law
of failures and the seconds of a step, a checkpoint and a restart are assumptions, which the record names; docs/scale.md
says where they come from. SCALE_PLOTS names a folder for the plots, if there is one.
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.cluster import (
    GPUS,
    HOUR,
    Attempt,
    Cluster,
    Training,
    daly_seconds,
    goodput,
    misplaced,
    seen,
    simulated,
    young_steps,
)
from benchmarks.measure import Row, run_suite
from viewfold.pipeline.order import Plan

PLOTS = "SCALE_PLOTS"
COLOURS = ("#8a8f98", "#c9a227", "#4f7cac", "#2e8b57", "#a3485b")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Sizes and assumptions; smaller in tests."""

    samples: int = 10**9
    passes: int = 30
    nodes: tuple[int, ...] = (8, 64)
    sample_s: float = 0.5e-3
    """Of one GPU for the views of a sample, forward and backward."""
    fixed_s: float = 0.01
    checkpoint_s: float = 5.0
    restart_s: float = 180.0
    node_mtbf_h: tuple[float, ...] = (24.0, 500.0, 6300.0)
    """Preemptible, poor and good nodes."""
    checkpoints: tuple[int, ...] = (200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
    ranks: tuple[int, ...] = (8, 64, 512)
    jitters: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2)
    stall: tuple[float, float] = (1e-4, 1.0)
    """Share of a rank's steps that stall, and for how many seconds."""
    jitter_steps: int = 20_000
    replayed: int = 500_000
    """Samples of the epoch that is seen through to the last sample."""


FULL = Scale()


def batches_of(nodes: int) -> tuple[int, int]:
    """Global batches for a cluster: a power of two for one of such, and 105/128 of it, with many more divisors."""
    return 1024 * nodes, 840 * nodes


def training_of(scale: Scale, nodes: int, *, batch: int, elastic: bool) -> Training:
    """All passes on the most nodes that divide the batch, or as an elastic one on any fewer that do."""
    sizes = [n * GPUS for n in range(1, nodes + 1) if batch % (n * GPUS) == 0]
    return Training(
        steps=-(-scale.samples * scale.passes // batch),
        batch=batch,
        sizes=tuple(sizes) if elastic else (sizes[-1],),
        sample_s=scale.sample_s,
        fixed_s=scale.fixed_s,
        checkpoint_every=scale.checkpoints[0],
        checkpoint_s=scale.checkpoint_s,
        restart_s=scale.restart_s,
    )


def useful(cluster: Cluster, training: Training, attempts: Sequence[Attempt]) -> float:
    """Share of the time of all GPUs of the cluster, idle ones too, that computed what was kept."""
    return training.steps * training.batch * training.sample_s / (cluster.nodes * GPUS * attempts[-1].end_s)


def averaged(cluster: Cluster, training: Training, repeats: int) -> Row:
    """The useful share and the course of a run over several draws of the failures; `low` and `high` are its range."""
    runs = [simulated(cluster, training, seed=seed) for seed in range(repeats)]
    values = [useful(cluster, training, run) for run in runs]
    ended = [attempt.ended for run in runs for attempt in run]
    redone = sum(attempt.reached - attempt.kept for run in runs for attempt in run)
    return {
        "gpus": cluster.nodes * GPUS,
        "node_mtbf_h": cluster.node_mtbf_s / HOUR,
        "batch": training.batch,
        "most_ranks": training.sizes[-1],
        "checkpoint_every": training.checkpoint_every,
        "value": float(np.mean(values)),
        "low": min(values),
        "high": max(values),
        "repeats": repeats,
        "hours": float(np.mean([run[-1].end_s for run in runs])) / HOUR,
        "lost": ended.count("lost") / repeats,
        "grew": ended.count("grew") / repeats,
        "redone_share": redone / training.steps / repeats,
    }


def interval_rows(scale: Scale, repeats: int) -> Iterator[Row]:
    """The useful share by the steps between checkpoints, beside Daly's expectation; lost nodes are replaced at once."""
    nodes = scale.nodes[-1]
    for mtbf_h in scale.node_mtbf_h:
        cluster = Cluster(nodes=nodes, node_mtbf_s=mtbf_h * HOUR, repair_s=0.0)
        for every in scale.checkpoints:
            whole = training_of(scale, nodes, batch=batches_of(nodes)[0], elastic=False)
            training = replace(whole, checkpoint_every=every)
            expected = training.steps * training.batch * training.sample_s / (nodes * GPUS)
            yield {
                "name": "useful_by_interval",
                **averaged(cluster, training, repeats),
                "expected": expected / daly_seconds(cluster, training),
                "young_steps": young_steps(cluster, training),
            }


def policy_rows(scale: Scale, repeats: int) -> Iterator[Row]:
    """What to do without a lost node: wait for it, have spare ones, or go on with fewer ranks."""
    for nodes in scale.nodes:
        power, rich = batches_of(nodes)
        policies = {
            "wait": training_of(scale, nodes, batch=power, elastic=False),
            "spare nodes": training_of(scale, nodes - max(1, nodes // 16), batch=rich, elastic=False),
            "elastic, power of two": training_of(scale, nodes, batch=power, elastic=True),
            "elastic, many divisors": training_of(scale, nodes, batch=rich, elastic=True),
        }
        policies["the same, grows at checkpoints"] = replace(policies["elastic, many divisors"], grow="checkpoint")
        for mtbf_h in scale.node_mtbf_h:
            cluster = Cluster(nodes=nodes, node_mtbf_s=mtbf_h * HOUR)
            for policy, training in policies.items():
                every = max(1, round(young_steps(cluster, training)))
                row = averaged(cluster, replace(training, checkpoint_every=every), repeats)
                yield {"name": "useful_by_policy", "policy": policy, **row}


def straggler_rows(scale: Scale) -> Iterator[Row]:
    """How much longer a step takes than its median rank, by how unsteady ranks are and how many wait for each other."""
    share, stall_s = scale.stall
    laws = [*((jitter, 0.0, 0.0) for jitter in scale.jitters), (0.0, share, stall_s)]
    for jitter, stall_share, seconds in laws:
        for ranks in scale.ranks:
            nodes = -(-ranks // GPUS)
            cluster = Cluster(
                nodes=nodes, node_mtbf_s=math.inf, jitter=jitter, stall_share=stall_share, stall_s=seconds
            )
            batch = 64 * ranks
            training = replace(
                training_of(scale, nodes, batch=batch, elastic=False), steps=scale.jitter_steps, restart_s=0.0
            )
            training = replace(training, checkpoint_s=0.0, checkpoint_every=scale.jitter_steps)
            longer = 1 / goodput(training, simulated(cluster, training))
            yield {
                "name": "step_by_stragglers",
                "ranks": ranks,
                "jitter": jitter,
                "stall_share": stall_share,
                "stall_s": seconds,
                "median_step_s": training.step_s(ranks),
                "value": longer,
            }


def once_rows(scale: Scale) -> Iterator[Row]:
    """An epoch through losses and resizings to its last sample, and the seams of one of full size."""
    nodes = scale.nodes[-1]
    batch = batches_of(nodes)[1]
    for samples, whole in ((scale.replayed, True), (scale.samples, False)):
        fitting = batch if not whole else batch // 8
        training = training_of(replace(scale, samples=samples, passes=1), nodes, batch=fitting, elastic=True)
        steps_s = training.steps * training.step_s(training.sizes[-1])
        # About two dozen losses in the epoch, whose nodes are back after half of it.
        cluster = Cluster(nodes=nodes, node_mtbf_s=steps_s * nodes / 24, repair_s=steps_s / 2, jitter=0.1)
        training = replace(
            training,
            checkpoint_every=max(1, training.steps // 25),
            checkpoint_s=0.0,
            restart_s=0.0,
            look_every_s=steps_s / 50,
        )
        attempts = simulated(cluster, training)
        plan = Plan(
            "simulated", samples, fitting, lanes=max(n for n in range(1, math.isqrt(fitting) + 1) if fitting % n == 0)
        )
        facts: Row = {"samples": samples, "batch": fitting, "attempts": len(attempts)}
        facts |= {"sizes": sorted({attempt.ranks for attempt in attempts})}
        facts |= {"steps_redone": sum(attempt.reached - attempt.kept for attempt in attempts)}
        if whole:
            counts = seen(plan, attempts)
            yield {"name": "samples_not_seen_once", **facts, "value": int((counts != 1).sum())}
        yield {"name": "misplaced_at_seams", **facts, "value": misplaced(plan, attempts)}


def rows(repeats: int, scale: Scale = FULL) -> Iterator[Row]:
    """All of it; `repeats` draws of the failures for each row."""
    made = []
    for row in (
        *once_rows(scale),
        *straggler_rows(scale),
        *interval_rows(scale, repeats),
        *policy_rows(scale, repeats),
    ):
        made.append(row)
        yield row
    if PLOTS in os.environ:
        draw_plots(made, Path(os.environ[PLOTS]))


def draw_plots(made: Sequence[Row], folder: Path) -> None:
    """A PNG for each question: how often to save, what to do without a node, what waiting for the slowest costs."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in (("checkpoints", _draw_intervals), ("losses", _draw_policies), ("stragglers", _draw_stragglers)):
        figure = Figure(figsize=(7.2, 3.0), layout="constrained")
        axes = figure.subplots()
        draw(axes, made)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(folder / f"scale-{name}.png", dpi=100, metadata={"Software": None})


def _draw_intervals(axes: Axes, made: Sequence[Row]) -> None:
    by_mtbf = _grouped([row for row in made if row["name"] == "useful_by_interval"], "node_mtbf_h")
    for colour, (mtbf_h, found) in zip(COLOURS, by_mtbf.items(), strict=False):
        every = [row["checkpoint_every"] for row in found]
        axes.plot(every, [row["value"] for row in found], "o", color=colour)
        label = f"a node fails every {mtbf_h:.0f} h"
        axes.plot(every, [row["expected"] for row in found], color=colour, lw=1, label=label)
        axes.axvline(found[0]["young_steps"], color=colour, lw=0.8, ls=":")
    axes.set(xscale="log", xlabel="steps between checkpoints (dotted: Young's)", ylabel="useful share of GPU time")
    axes.set(ylim=(0, 1), title="512 GPUs: simulated (dots) and expected (lines)")
    axes.legend(frameon=False, fontsize=8, loc="lower left")


def _draw_policies(axes: Axes, made: Sequence[Row]) -> None:
    found = [row for row in made if row["name"] == "useful_by_policy"]
    most = [row for row in found if row["gpus"] == max(row["gpus"] for row in found)]
    by_policy = _grouped(most, "policy")
    for number, (colour, (policy, runs)) in enumerate(zip(COLOURS, by_policy.items(), strict=False)):
        xs = np.arange(len(runs)) + (number - 2) * 0.16
        axes.bar(xs, [row["value"] for row in runs], 0.15, color=colour, label=policy)
    axes.set_xticks(range(len(runs)), [f"{row['node_mtbf_h']:.0f} h" for row in runs])
    axes.set(xlabel="mean time between failures of a node", ylabel="useful share of GPU time")
    axes.set(title=f"{most[0]['gpus']} GPUs, a lost node is back after two hours", ylim=(0, 1))
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _draw_stragglers(axes: Axes, made: Sequence[Row]) -> None:
    found = [row for row in made if row["name"] == "step_by_stragglers"]
    for colour, (jitter, runs) in zip(COLOURS, _grouped(found, "jitter").items(), strict=False):
        stall = f"{runs[0]['stall_share']:.2%} of steps stall {runs[0]['stall_s']:.0f} s"
        label = f"jitter {jitter:.0%}" if jitter else stall
        axes.plot([row["ranks"] for row in runs], [row["value"] for row in runs], "o-", color=colour, label=label)
    ranks = sorted({row["ranks"] for row in found})
    axes.set(xscale="log", yscale="log", xlabel="ranks that wait for each other", ylabel="step, as a multiple")
    axes.set_xticks(ranks, [str(n) for n in ranks])
    axes.set_yticks([1, 1.5, 2, 3], ["1", "1.5", "2", "3"])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)


def _grouped(found: Sequence[Row], by: str) -> dict[Any, list[Row]]:
    return {value: [row for row in found if row[by] == value] for value in dict.fromkeys(row[by] for row in found)}


def facts(measured: list[Row]) -> dict[str, Any]:
    """The assumptions, and what one must know to read the rows."""
    notes = [
        "simulated time; failures, step, checkpoint and restart seconds are assumptions",
        "value of useful_*: the share of all GPUs' time that computed what was kept; low, high: the range of the draws",
        "value of step_by_stragglers: mean step over the step to which nothing happens",
    ]
    return {"page": "scale.md", "assumed": {**vars(FULL), "repair_s": Cluster.repair_s}, "notes": notes}


if __name__ == "__main__":
    run_suite("simulate", rows, about=__doc__, repeats=20, facts=facts)
