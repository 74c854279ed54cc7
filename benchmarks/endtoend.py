"""Images/s of two-view pretraining beside lightly, and how near that comes to augmentation that costs nothing.

Both sides train SimCLR (InfoNCE, the same head, Adam, float32, BatchNorm for each view) on the same JPEGs with the
same recipe of views, the same backbone and batch, confined to the same two cores. The backbones' numbers of weights
are held against each other; of the heads, lightly's normalises its output too, and ours has a bias in its hidden layer.

* Ours is the training of `viewfold run` without Ray, which only starts it: stream, `make_views`, the method in the
  plain engine, `ssl.loop.train` with its metrics and its watch. No checkpoint is written.
* The peer is the loop of lightly's documentation: `LightlyDataset`, `SimCLRTransform`, `SimCLRProjectionHead`,
  `NTXentLoss`, torch's `DataLoader`; see `benchmarks/endtoend_peer.py`. It runs in the peers' Python.
* Free is our loop handed views that were made beforehand: nothing is read, decoded or augmented, and all cores train.

The stored images have the size that is trained on, so both sides crop out of the same pixels. Larger files would favour
ours, which crops out of the image scaled down to the training's size, where lightly decodes and crops the whole.

How the cores are best divided differs: our loader processes decode, lightly's also augment. So each side is tried with
the same few numbers of threads and loader processes, and then measured with its best; the rows name them.

`vs_lightly` is ours over lightly. `ceiling` in its rows is free over lightly: what Amdahl's law leaves to whoever only
makes data faster. `share_of_ceiling` is ours over free. An image counts once, for its two views. The three take turns,
and each stands still while another one works. The last line printed is the record, as JSON.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.decode import photographs
from benchmarks.endtoend_turns import Training, Turns, training
from benchmarks.measure import Comparison, Label, Row, compared, run_suite, worst_case
from benchmarks.peers import left_out, peer_versions, python_with

TARGETS = {"vs_lightly": 1.0, "share_of_ceiling": 0.9}
SHARED = (
    "reading and augmenting take time of the same cores: at 64 px 28 ms for a batch, beside the 212 ms (two cores, "
    "106 ms each) of the smallest encoder; with both cores busy all the time the share would be 0.88"
)
LABELS = {
    "vs_lightly": Label(
        what="images/s of two-view pretraining",
        beside="lightly",
        case="{backbone}, {size} px, {cores} cores",
    ),
    "share_of_ceiling": Label(
        what="images/s of two-view pretraining",
        beside="the same with free views",
        case="{backbone}, {size} px",
        why=SHARED,
    ),
}
PEER = "lightly"
WIDTHS, TAU = (512, 128), 0.1
"""Of the projection head, as lightly's examples have it, and of the loss."""
ENDLESS = 10**9
PREPARED = 4
"""Batches of views that are made beforehand, and used again and again."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a training divides its cores."""

    threads: int
    loaders: int


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured; smaller in tests."""

    backbones: Sequence[str] = ("resnet-small", "resnet18")
    sizes: Sequence[int] = (64, 128)
    images: int = 2048
    batch: int = 64
    cores: int = 2
    layouts: Sequence[Layout] = (
        Layout(threads=1, loaders=1),
        Layout(threads=2, loaders=1),
        Layout(threads=2, loaders=2),
    )
    turn_s: float = 3.0
    least_steps: int = 4
    """Of a turn, however long they take."""


FULL = Scale()


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained on what."""

    backbone: str
    size: int
    batch: int
    cores: Sequence[int]
    data: Path
    """Holds the images as `files` and as `shards`."""


def write_data(folder: Path, size: int, num: int) -> None:
    """The same JPEGs of `size` pixels as files for the peer and as shards for us, imported as users do it."""
    from viewfold.pipeline import import_folder

    files = folder / "files" / "images"
    files.mkdir(parents=True)
    for number, data in enumerate(photographs(size, size, num)):
        (files / f"{number:06d}.jpg").write_bytes(data)
    import_folder(folder / "files", folder / "shards")


def train_ours(settings: dict[str, Any]) -> None:
    """Our side, in a process of its own: train for as long as turns are asked for."""
    os.sched_setaffinity(0, settings["cores"])
    torch.set_num_threads(settings["threads"])
    from viewfold.augment import SimCLRPolicy, make_views
    from viewfold.jobs.train_build import build_engine
    from viewfold.jobs.train_config import TrainConfig
    from viewfold.pipeline import ShardManifest, stream_batches
    from viewfold.pipeline.stream_config import StreamConfig
    from viewfold.ssl.checkpoint import Progress
    from viewfold.ssl.encoder import EncoderConfig, Preprocessing
    from viewfold.ssl.loop import metrics_hook, train
    from viewfold.ssl.methods.simclr import SimCLRConfig
    from viewfold.ssl.watch import CollapseWatch

    manifest, size = ShardManifest.load(Path(settings["shards"])), settings["size"]
    config = TrainConfig(
        method=SimCLRConfig(expander_widths=WIDTHS, tau=TAU),
        policy=SimCLRPolicy(),
        stream=StreamConfig(batch_size=settings["batch"], image_size=size, loader_workers=settings["loaders"]),
        steps=ENDLESS,
        engine="plain",
    )
    start = EncoderConfig(backbone=settings["backbone"], preprocessing=Preprocessing(image_size=size))
    engine, method = build_engine(config, manifest, start, torch.device("cpu"))
    stream = stream_batches(manifest, config.stream, num_steps=config.steps)
    views_of = partial(make_views, policy=config.policy, seed=config.seed)
    batches = iter(stream)
    if settings["free"]:
        some = [next(stream) for _ in range(PREPARED)]
        prepared = cycle([views_of(batch) for batch in some])
        stream.close()
        batches, views_of = repeat(some[0]), lambda _: next(prepared)  # type: ignore[assignment]
    progress = Progress()
    with tempfile.TemporaryDirectory() as folder:
        metrics = metrics_hook(
            Path(folder) / "metrics.jsonl",
            every=config.log_every,
            progress=progress,
            watch=CollapseWatch(config.watch),
            counts=lambda: {"quarantined": stream.num_bad, "repeated": stream.num_repeated},
        )
        turns = Turns(backbone_weights=sum(p.numel() for p in method.encoder.parameters()))
        hooks = [metrics, turns.step_taken]
        train(engine, batches, views_of, progress=progress, steps=config.steps, hooks=hooks)


@dataclass(frozen=True)
class Side:
    """One of those that are compared: which Python runs it, and whether its views are free."""

    name: str
    python: str
    free: bool = False

    def command(self, case: Case, layout: Layout) -> list[str]:
        """What starts it."""
        about = {"backbone": case.backbone, "size": case.size, "batch": case.batch, "cores": list(case.cores)}
        about |= {**asdict(layout), "tau": TAU, "widths": WIDTHS}
        if self.name == "peer":
            from viewfold.augment import BlurConfig

            about |= {"files": str(case.data / "files"), "sigma_ratio": BlurConfig().sigma_ratio}
            return [self.python, "-m", "benchmarks.endtoend_peer", json.dumps(about)]
        about |= {"shards": str(case.data / "shards"), "free": self.free}
        start = "import json, sys; from benchmarks.endtoend import train_ours; train_ours(json.loads(sys.argv[1]))"
        return [self.python, "-c", start, json.dumps(about)]

    def log(self, case: Case) -> Path:
        """Where its warnings and its last words go."""
        return case.data / f"{self.name}.log"


def step_seconds(running: Training, scale: Scale) -> float:
    """Of a step, over a turn whose length follows from a first, short one."""
    steps = steps_of(running.seconds(2, before=2) / 2, scale)
    return running.seconds(steps) / steps


def steps_of(step_s: float, scale: Scale) -> int:
    """Steps that make a turn."""
    return max(scale.least_steps, round(scale.turn_s / step_s))


def best_layout(side: Side, case: Case, scale: Scale) -> Layout:
    """The fastest of those that are tried; free views leave all cores to the training."""
    if side.free:
        return Layout(threads=len(case.cores), loaders=0)
    if len(scale.layouts) == 1:
        return scale.layouts[0]
    tried = {}
    for layout in scale.layouts:
        with training(side.command(case, layout), threads=layout.threads, log=side.log(case)) as running:
            tried[layout] = step_seconds(running, scale)
    return min(tried, key=lambda layout: tried[layout])


def by_turns(case: Case, layouts: dict[Side, Layout], scale: Scale, repeats: int) -> dict[str, list[float]]:
    """Seconds of a step of each side in each round; who begins changes with every round."""
    with ExitStack() as stack:
        running = {
            side.name: stack.enter_context(
                training(side.command(case, layout), threads=layout.threads, log=side.log(case))
            )
            for side, layout in layouts.items()
        }
        weights = {name: each.facts["backbone_weights"] for name, each in running.items()}
        assert len(set(weights.values())) == 1, f"the sides train different backbones: {weights}"
        steps = {name: steps_of(step_seconds(each, scale), scale) for name, each in running.items()}
        seconds: dict[str, list[float]] = {name: [] for name in running}
        for turn in range(repeats):
            for name in np.roll(list(running), turn):
                seconds[name].append(running[name].seconds(steps[name]) / steps[name])
        return seconds


def case_rows(case: Case, sides: Sequence[Side], scale: Scale, repeats: int) -> Iterator[Row]:
    """Ours beside the peer where there is one, and beside free views; each row has the images/s of all of them."""
    layouts = {side: best_layout(side, case, scale) for side in sides}
    seconds = by_turns(case, layouts, scale, repeats)
    about: dict[str, Any] = {"backbone": case.backbone, "size": case.size, "batch": case.batch}
    about["cores"] = len(case.cores)
    for side, layout in layouts.items():
        about |= {f"{side.name}_{part}": number for part, number in asdict(layout).items()}
        about[f"{side.name}_images_s"] = case.batch / float(np.median(seconds[side.name]))
    if "peer" in seconds:
        ceiling, _, _ = Comparison(seconds["free"], seconds["peer"]).ratio()
        measured = Comparison(seconds["ours"], seconds["peer"])
        yield compared("vs_lightly", TARGETS["vs_lightly"], measured, **about, ceiling=ceiling)
    measured = Comparison(seconds["ours"], seconds["free"])
    yield compared("share_of_ceiling", TARGETS["share_of_ceiling"], measured, **about)


def rows(repeats: int, scale: Scale = FULL) -> Iterator[Row]:
    """All measurements, one by one."""
    python = python_with(PEER)
    sides = [Side("ours", sys.executable), Side("free", sys.executable, free=True)]
    if python is None:
        print(left_out("vs_lightly", PEER), flush=True)
    else:
        sides.append(Side("peer", python))
    cores = sorted(os.sched_getaffinity(0))[: scale.cores]
    with tempfile.TemporaryDirectory() as scratch:
        for size in scale.sizes:
            data = Path(scratch) / str(size)
            write_data(data, size, scale.images)
            for backbone in scale.backbones:
                case = Case(backbone=backbone, size=size, batch=scale.batch, cores=cores, data=data)
                yield from case_rows(case, sides, scale, repeats)


def facts(measured: list[Row]) -> dict[str, Any]:
    """The worst case of each name, and what one must know to read the rows."""
    there = any(row["name"] == "vs_lightly" for row in measured)
    return {
        "threads": "of each side, in the rows",
        "worst_case": worst_case(measured),
        "peers": peer_versions(PEER, "torch", "torchvision", "timm", "pillow"),
        "notes": [
            "SimCLR with a head of 512 and 128, Adam, float32; JPEGs of the size that is trained on, in the page cache",
            "threads and loader processes: each side's best of the same few; all of a side is confined to the cores",
            "all in the environment of the workers of `viewfold run`: threads that wait sleep, a step's memory is kept",
            "free: our loop with views made beforehand, on all cores; ceiling is free over lightly",
            "vs_lightly: its target is parity; what can be had at most is the row's ceiling",
            *([] if there else [left_out("vs_lightly", PEER)]),
        ],
    }


if __name__ == "__main__":
    packages = ("torchvision", "timm", "simplejpeg", "pillow")
    run_suite("endtoend", rows, about=__doc__, repeats=7, packages=packages, labels=LABELS, facts=facts)
