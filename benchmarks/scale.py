"""What 10^9 images cost on 8, 64 and 512 GPUs, and what each stage then waits for: a reckoning, not a measurement.

Costs that were measured are read from `benchmarks/results/`, all of one CPU core; what belongs to GPUs, storage and
networks is a range in `ASSUMED`, each with its reason. A stage goes as fast as the slowest of what it needs; its range
is that between all bad and all good ends, and `may_limit` names everything that is slowest somewhere between them.
docs/scale.md reads the rows. SCALE_PLOTS names a folder for the plot, if there is one.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.measure import RESULTS, Row, run_suite

PLOTS = "SCALE_PLOTS"
COLOURS = {"training pass": "#4f7cac", "embedding": "#2e8b57", "index": "#c9a227"}
SAMPLES = 10**9
GPUS = (8, 64, 512)
NODE = 8
"""GPUs of a node."""
VIEWS = 2
"""Of a sample in a training step."""
DIM = 256
"""Of an indexed vector."""
LISTS = 2**17
"""Of the index: the power of two near 4 sqrt(n), as `index.factory: auto` takes it."""
PER_GPU, WIDTH, PARTS = 64, 1024, 2
"""Samples of a batch for each GPU; width of an expander and the parts that have one, as SIE was published."""
WEIGHTS = 25.6e6
"""Of a ResNet-50."""


@dataclass(frozen=True)
class Range:
    """From the bad to the good end."""

    bad: float
    good: float
    why: str = ""


ASSUMED = {
    "train_views_s": Range(2000, 6000, "views/s of one GPU, ResNet-50 at 224 px, forward and backward in bfloat16"),
    "embed_images_s": Range(6000, 20_000, "images/s of one GPU, forward alone"),
    "gpu_memory_b_s": Range(2e12, 3e12, "memory bandwidth of one GPU"),
    "view_over_floor": Range(148, 10, "a view's time over the read and write of its pixels; the bad end is our CPU's"),
    "decode_s": Range(2e-3, 0.4e-3, "core seconds to decode for 224 px; the good end is ours for 128 px of 256 px"),
    "cores": Range(8, 24, "CPU cores for each GPU"),
    "image_b": Range(120e3, 30e3, "bytes of a stored image"),
    "storage_b_s": Range(20e9, 200e9, "what the shared storage gives to all readers together"),
    "link_b_s": Range(12.5e9, 50e9, "between nodes, for each GPU"),
    "loss_flop_s": Range(30e12, 60e12, "matrix products of a loss in float32 on one GPU"),
    "core_flop_s": Range(30e9, 100e9, "matrix products on one CPU core"),
    "scan_b_s": Range(2e9, 8e9, "codes that one core looks through in a second"),
    "probes": Range(128, 16, "lists that a query looks into"),
}


def measured(results: Path = RESULTS) -> dict[str, float]:
    """The figures that are read from the records, each of one core of the machine that its record names."""
    records = ("stream", "augment", "mining", "retrieval", "serve")
    stream, views, mining, retrieval, serve = (_rows(results / f"{name}.json") for name in records)
    decoded = {row["size"]: row["ours_images_s"] for row in stream if row["name"] == "vs_decode_limit"}
    floor = {row["size"]: row for row in views if row["name"] == "multiple_of_memory_floor"}[224]
    named = {row["name"]: row for row in (*stream, *mining)}
    peak = named["peak_gib_1e6"]
    build = next(row for row in retrieval if row["name"] == "build_vs_autofaiss")
    select = next(row for row in retrieval if row["name"] == "selection_added_ms_per_query")
    bare = next(row for row in serve if row["name"] == "batch32_overhead_vs_bare")
    asked = next(row for row in serve if row["name"] == "vector_requests_per_s")
    trainings = json.loads((results / "objects3d.json").read_text(encoding="utf-8"))["results"]
    quietest_s = min(run["train_s"] for seeds in trainings.values() for run in seeds.values())
    return {
        "stream_us_64": 1e6 / decoded[64],
        "stream_us_128": 1e6 / decoded[128],
        "view_us_224": floor["view_us"],
        "view_bytes_224": floor["floor_us"] * floor["bandwidth_gb_s"] * 1e3,
        "view_over_floor_224": floor["value"],
        "train_view_us_64": 1e6 * quietest_s / (5000 * 32 * 4),  # the machine had other work beside most of these runs
        "resume_s_1e7": named["resume_seconds_at_1e6"]["value"],
        "plan_bytes_1e9": float(named["plan_bytes_per_million_samples"]["held_bytes"][-1]),
        "embed_us_64": 1e6 / bare["bare_images_per_s"],  # with the decoding and one search, which is of 10^5 vectors
        "index_us_vector": 1e3 * build["ours_ms"] / build["rows"],
        "select_ms_1e6": select["bare_ms_per_query"] + select["value"],
        "service_requests_s": asked["value"],
        "mining_s_1e6": named["seconds_1e6"]["value"],
        "mining_gib_1e6": peak["value"] - peak["libraries_gib"],
    }


def training(gpus: int, known: Mapping[str, float]) -> dict[str, Range]:
    """Samples/s of one pass of training by each thing that it needs, had it all else for nothing."""
    step = _both(lambda end: VIEWS * (1 / _of("train_views_s", end) + view_s(end, known)))
    loss = _both(lambda end: sum(loss_s(gpus, end)) / PER_GPU)
    return {
        "GPUs": Range(gpus / (step.bad + loss.bad), gpus / (step.good + loss.good)),
        "decoding": _both(lambda end: gpus * _of("cores", end) / _of("decode_s", end)),
        "storage": _both(lambda end: _of("storage_b_s", end) / _of("image_b", end)),
    }


def embedding(gpus: int) -> dict[str, Range]:
    """Images/s of a pass of the encoder alone, by each thing that it needs."""
    return {
        "GPUs": _both(lambda end: gpus * _of("embed_images_s", end)),
        "decoding": _both(lambda end: gpus * _of("cores", end) / _of("decode_s", end)),
        "storage": _both(lambda end: _of("storage_b_s", end) / _of("image_b", end)),
    }


def view_s(end: str, known: Mapping[str, float]) -> float:
    """Seconds of one view at 224 px on a GPU: some multiple of what its memory needs for the pixels."""
    return known["view_bytes_224"] / _of("gpu_memory_b_s", end) * _of("view_over_floor", end)


def loss_s(gpus: int, end: str) -> tuple[float, float, float]:
    """Seconds of a step that no rank shares with others: gradients, rows gathered, covariances of the whole batch."""
    batch = gpus * PER_GPU
    gradients = 2 * 4 * WEIGHTS / _of("link_b_s", end)
    # Both parts of both views and the prediction; their gradients come back by a sum over ranks, which sends twice.
    gathered = (1 + 2) * 4 * batch * WIDTH * (VIEWS * PARTS + 1) / _of("link_b_s", end)
    covariances = 6 * VIEWS * batch * (WIDTH * PARTS) ** 2 / _of("loss_flop_s", end)
    return gradients, gathered, covariances


def index_seconds(gpus: int) -> tuple[Range, Range]:
    """Seconds of an index's k-means, which one node does, and of handing all vectors out to its lists, which all do."""
    trained = 64 * LISTS
    node = _both(lambda end: 2 * trained * LISTS * DIM * 20 / (NODE * _of("cores", end) * _of("core_flop_s", end)))
    every = _both(lambda end: 2 * SAMPLES * LISTS * DIM / (gpus * _of("cores", end) * _of("core_flop_s", end)))
    return node, every


def rows(repeats: int) -> Iterator[Row]:
    """Every figure of docs/scale.md that is not a simulation's."""
    known = measured()
    made = [*({"name": name, "value": value, "from": "measured"} for name, value in known.items())]
    for gpus in GPUS:
        made.append(limited("training pass", gpus, training(gpus, known)))
        made.append(limited("embedding", gpus, embedding(gpus)))
        node, every = index_seconds(gpus)
        low, high = node.good + every.good, node.bad + every.bad
        made.append(_hours("index", gpus, low, high, one_node_h=[node.good / 3600, node.bad / 3600]))
        for name, part in zip(
            ("gradients", "gathering", "covariances"),
            zip(loss_s(gpus, "good"), loss_s(gpus, "bad"), strict=True),
            strict=True,
        ):
            made.append({"name": f"step_ms: {name}", "gpus": gpus, "low": min(part) * 1e3, "high": max(part) * 1e3})
            made[-1]["value"] = _middle(*part) * 1e3
    scanned = _both(lambda end: _of("probes", end) * SAMPLES / LISTS * (DIM // 2) / _of("scan_b_s", end) * 1e3)
    made.append({"name": "query_core_ms", "value": _middle(scanned.good, scanned.bad)})
    made[-1] |= {"low": scanned.good, "high": scanned.bad, "codes_gb": SAMPLES * (DIM // 2 + 8) / 1e9}
    yield from made
    if PLOTS in os.environ:
        draw(made, Path(os.environ[PLOTS]))


def limited(name: str, gpus: int, needs: Mapping[str, Range]) -> Row:
    """Hours for all samples, what is slowest at either end, and what may be somewhere between them."""
    bad, good = (min(needs, key=lambda need: getattr(needs[need], end)) for end in ("bad", "good"))
    others = {need: min(other.good for key, other in needs.items() if key != need) for need in needs}
    may = [need for need in needs if needs[need].bad <= others[need]]
    facts = {"limit_bad": bad, "limit_good": good, "may_limit": may}
    rates = {need: [rate.bad, rate.good] for need, rate in needs.items()}
    return _hours(name, gpus, SAMPLES / needs[good].good, SAMPLES / needs[bad].bad, **facts, samples_s=rates)


def draw(made: Sequence[Row], folder: Path) -> None:
    """Hours of each stage by GPUs, as bars from the good to the bad end."""
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    axes = figure.subplots()
    for number, (name, colour) in enumerate(COLOURS.items()):
        found = [row for row in made if row["name"] == name]
        xs = np.arange(len(found)) + (number - 1) * 0.22
        heights = [row["high"] - row["low"] for row in found]
        axes.bar(xs, heights, 0.18, bottom=[row["low"] for row in found], color=colour, label=name)
    axes.set(yscale="log", ylim=(0.02, 100), ylabel="hours", title="10^9 images: from all good to all bad assumptions")
    axes.set_xticks(range(len(GPUS)), [f"{gpus} GPUs" for gpus in GPUS])
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "scale-hours.png", dpi=100, metadata={"Software": None})


def facts(made: list[Row]) -> dict[str, Any]:
    """The assumptions, with their reasons."""
    return {"page": "scale.md", "assumed": {name: vars(value) for name, value in ASSUMED.items()}}


def _of(name: str, end: str) -> float:
    assumed = ASSUMED[name]
    return assumed.bad if end == "bad" else assumed.good


def _both(value: Callable[[str], float]) -> Range:
    return Range(value("bad"), value("good"))


def _middle(one: float, other: float) -> float:
    return float(np.sqrt(one * other))


def _hours(name: str, gpus: int, low: float, high: float, **facts: Any) -> Row:
    low, high = low / 3600, high / 3600
    return {"name": name, "gpus": gpus, "value": _middle(low, high), "low": low, "high": high, **facts}


def _rows(record: Path) -> list[Row]:
    made: list[Row] = json.loads(record.read_text(encoding="utf-8"))["rows"]
    return made


if __name__ == "__main__":
    run_suite("scale", rows, about=__doc__, repeats=1, facts=facts)
