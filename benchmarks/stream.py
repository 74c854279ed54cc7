"""How fast the stream is, what it costs to go on where a run stopped, and what its order holds in memory.

Images/s of whole epochs beside plain webdataset on the same shards, with the same decoder, batches and loader
processes, and beside a loop that only decodes the same files from memory. Then the seconds from nothing to the first
batch at global sample 10**6 of a manifest of 10**7, in fresh processes, and the bytes that a plan holds. JPEGs of
256 x 256 pixels, made of the shipped images, one thread. The last line printed is the record, as JSON.
"""

import gc
import io
import json
import multiprocessing
import tarfile
import tempfile
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.decode import photographs
from benchmarks.measure import Comparison, Label, Row, compare, compared, isolated, lower, run_suite, worst_case
from viewfold.pipeline.decode import decode_image
from viewfold.pipeline.indexer import index_shards
from viewfold.pipeline.manifest import FORMAT, MANIFEST_NAME, TABLE_NAME, ShardManifest
from viewfold.pipeline.order.plan import Plan
from viewfold.pipeline.stream import stream_batches
from viewfold.pipeline.stream_config import StreamConfig
from viewfold.pipeline.table import SCHEMA, write_table

BATCH = 64
SHUFFLE = 1000
"""Samples in webdataset's shuffle buffer."""
DISTINCT = 512
"""Different images; more samples than that repeat them."""
_PLAN_SIZES = (10**7, 10**8, 10**9)
LABELS = {
    "vs_webdataset": Label(
        what="images/s of whole epochs", beside="webdataset", case="{size} px, {loader_workers} loader processes"
    ),
    "vs_decode_limit": Label(what="images/s of whole epochs", beside="decoding alone, from memory", case="{size} px"),
    "resume_seconds_at_1e6": Label(
        what="from nothing to the first batch at sample 10^6 of a manifest of 10^7", unit="s", less=True
    ),
    "plan_bytes_per_million_samples": Label(
        what="what a plan holds for each million samples more", unit="bytes", less=True
    ),
}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured; smaller in tests."""

    samples: int = 4096
    shards: int = 8
    image_sizes: Sequence[int] = (64, 128)
    loader_workers: Sequence[int] = (0, 1, 2)
    manifest_samples: int = 10**7
    manifest_per_shard: int = 1000
    resume_at: int = 10**6


FULL = Scale()


def write_shards(folder: Path, scale: Scale) -> list[Path]:
    """Shards of JPEGs with a class each, equally many samples in all."""
    files = photographs(256, 256, min(DISTINCT, scale.samples))
    per_shard = scale.samples // scale.shards
    paths = []
    for shard in range(scale.shards):
        paths.append(folder / f"photographs-{shard:06d}.tar")
        with tarfile.open(paths[-1], "w") as tar:
            for sample in range(shard * per_shard, (shard + 1) * per_shard):
                for ending, data in (("jpg", files[sample % len(files)]), ("cls", str(sample % 10).encode())):
                    member = tarfile.TarInfo(f"{sample:07d}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return paths


def our_epoch(manifest: ShardManifest, image_size: int, loader_workers: int) -> int:
    """Images in one pass over the data by the stream, as training asks for it."""
    config = StreamConfig(batch_size=BATCH, image_size=image_size, loader_workers=loader_workers)
    batches = stream_batches(manifest, config, num_steps=len(manifest) // BATCH)
    return sum(batch.images.shape[1] for batch in batches)


def webdataset_epoch(urls: Sequence[str], image_size: int, loader_workers: int) -> int:
    """Images in one pass by webdataset: shards shuffled, samples through its buffer, decoded, batched, loaded."""
    import webdataset

    samples = webdataset.WebDataset(list(urls), shardshuffle=len(urls)).shuffle(SHUFFLE)
    samples = samples.map(partial(_decoded, image_size=image_size)).batched(BATCH)
    loader = webdataset.WebLoader(samples, batch_size=None, num_workers=loader_workers)
    return sum(len(images) for images, _ in loader)


def _decoded(sample: dict[str, Any], image_size: int) -> tuple[torch.Tensor, int]:
    return torch.from_numpy(decode_image(sample["jpg"], image_size)), int(sample["cls"])


def vs_webdataset(folder: Path, image_size: int, loader_workers: int, repeats: int) -> Comparison:
    """Whole epochs of both, from the making of the loader to its last batch."""
    manifest = ShardManifest.load(folder)
    urls = [shard.location for shard in manifest.shards]
    return compare(
        lambda: _all_of(manifest, our_epoch(manifest, image_size, loader_workers)),
        lambda: _all_of(manifest, webdataset_epoch(urls, image_size, loader_workers)),
        repeats=repeats,
    )


def vs_webdataset_forking(folder: Path, image_size: int, loader_workers: int, repeats: int) -> Comparison:
    """The same in a process that was spawned: its loader processes are forked, as those of a started program are."""
    multiprocessing.set_start_method("fork", force=True)
    return vs_webdataset(folder, image_size, loader_workers, repeats)


def vs_decode_limit(folder: Path, image_size: int, repeats: int) -> Comparison:
    """An epoch in the training process, beside decoding the same files out of memory and throwing the pixels away."""
    manifest = ShardManifest.load(folder)
    with manifest.reader() as reader:
        rows = range(len(manifest))
        files = [reader.read(manifest.shard(row), manifest.samples.images(row)[0]) for row in rows]

    def decode_all() -> None:
        for data in files:
            decode_image(data, image_size)

    return compare(lambda: _all_of(manifest, our_epoch(manifest, image_size, 0)), decode_all, repeats=repeats)


def _all_of(manifest: ShardManifest, num_images: int) -> None:
    assert num_images == len(manifest), f"{num_images} images of {len(manifest)}"


def write_large_manifest(folder: Path, source: ShardManifest, scale: Scale) -> None:
    """A manifest of many shards, by the writer that all manifests come from; every shard is the source's first."""
    shard = source.shards[0]
    rows = np.arange(scale.manifest_per_shard) % shard.samples
    columns: list[dict[str, Any]] = []
    for number, row in enumerate(rows.tolist()):
        (image,) = source.samples.images(row)
        names = dict.fromkeys(("label", "domain", "group"), -1)
        place = {"image_offset": [image.offset], "image_size": [image.size], "about_offset": 0, "about_size": 0}
        columns.append({"key": f"{number:07d}", **names, **place, "num_latents": 0})
    part = pa.RecordBatch.from_pylist(columns, schema=SCHEMA)
    num_shards = scale.manifest_samples // scale.manifest_per_shard
    with (folder / TABLE_NAME).open("wb") as file:
        write_table(file, (part for _ in range(num_shards)), source.hash)
    entry = asdict(replace(shard, samples=scale.manifest_per_shard))
    fields = {
        "format": FORMAT,
        "hash": source.hash,
        "num_samples": scale.manifest_samples,
        "num_images": scale.manifest_samples,
        "num_latents": 0,
        **{names: [] for names in ("labels", "domains", "groups")},
        "shards": [{**entry, "name": f"large-{number:06d}"} for number in range(num_shards)],
    }
    (folder / MANIFEST_NAME).write_text(json.dumps(fields, indent=1))


def resume_seconds(folder: Path, at_sample: int) -> float:
    """From nothing but imports to the first batch at a global sample: load the manifest, place, read, decode."""
    start = time.perf_counter()
    manifest = ShardManifest.load(folder)
    config = StreamConfig(batch_size=BATCH, image_size=128)
    batch = next(stream_batches(manifest, config, start_step=at_sample // BATCH, num_steps=1))
    seconds = time.perf_counter() - start
    assert batch.images.shape[1] == BATCH
    return seconds


def plan_bytes(num_samples: int) -> int:
    """What a plan holds after batches at the beginning and the end of an epoch, then all over it."""
    steps = num_samples // BATCH
    gc.collect()
    tracemalloc.start()
    plan = Plan(identity="0" * 64, num_samples=num_samples, global_batch=BATCH, lanes=8)
    for step in (0, steps - 1, *range(steps // 16, steps, steps // 8)):
        plan.places(step, 0, BATCH)
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held


def speed_row(name: str, target: float, measured: Comparison, num_images: int, **facts: Any) -> Row:
    """A comparison with both sides' images per second."""
    row = compared(name, target, measured, **facts)
    return {**row, **{f"{side}_images_s": num_images / row[f"{side}_ms"] * 1e3 for side in ("ours", "peer")}}


def resume_row(folder: Path, scale: Scale, repeats: int) -> Row:
    """Median over fresh processes, with the 95 % bootstrap interval of it."""
    seconds = [isolated(resume_seconds, folder, scale.resume_at) for _ in range(repeats)]
    value, low, high = Comparison(ours_s=[1.0] * repeats, peer_s=seconds).ratio()
    return {
        "name": "resume_seconds_at_1e6",
        "manifest_samples": scale.manifest_samples,
        "value": value,
        "low": low,
        "high": high,
        "repeats": repeats,
        "target": 2.0,
        "met": value < 2.0,
    }


def plan_row() -> Row:
    """Bytes held for each million samples, over three orders of magnitude, and the bytes held whatever the size."""
    held = [isolated(plan_bytes, size) for size in _PLAN_SIZES]
    slope, constant = np.polyfit(np.array(_PLAN_SIZES) / 1e6, held, 1).tolist()
    return {
        "name": "plan_bytes_per_million_samples",
        "value": slope,
        "constant_bytes": constant,
        "samples": list(_PLAN_SIZES),
        "held_bytes": held,
        "target": 1.0,
        "met": slope <= 1.0,
    }


def rows(repeats: int, scale: Scale = FULL) -> Iterator[Row]:
    """All measurements, one by one."""
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small", Path(folder) / "large"
        small.mkdir()
        large.mkdir()
        manifest = index_shards(write_shards(small, scale), small)
        for size in scale.image_sizes:
            for workers in scale.loader_workers:
                measured = isolated(vs_webdataset_forking, small, size, workers, repeats)
                facts = {"size": size, "loader_workers": workers}
                row = speed_row("vs_webdataset", 0.95, measured, scale.samples, **facts)
                yield {**row, "met": row["met"] and row["high"] >= 1}
            measured = isolated(vs_decode_limit, small, size, repeats)
            yield speed_row("vs_decode_limit", 0.9, measured, scale.samples, size=size, loader_workers=0)
        write_large_manifest(large, manifest, scale)
        yield resume_row(large, scale, repeats)
    yield plan_row()


def facts(measured: list[Row]) -> dict[str, Any]:
    """The worst case of each name, and what one must know to read the rows."""
    return {
        "worst_case": worst_case(measured, lower_is_better=lower(LABELS)),
        "notes": [
            f"epochs of JPEGs of 256 x 256 pixels in 8 shards, {DISTINCT} different ones, in the page cache",
            "both sides call the same decoder; webdataset shuffles shards and a buffer of 1000 samples",
            "an epoch begins with the loader: the start and the end of its processes count on both sides",
        ],
    }


if __name__ == "__main__":
    packages = ("webdataset", "simplejpeg", "pyarrow")
    run_suite("stream", rows, about=__doc__, repeats=9, packages=packages, labels=LABELS, facts=facts)
