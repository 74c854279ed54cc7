"""What `viewfold serve` answers in a second, how long that takes, and what batches bring; beside clip-retrieval.

The service runs as users start it, the load generator in a process of its own on the same machine. Vectors are asked on
an index of synthetic unit vectors around centres, images of noise on indexes of encoders with random weights. The
backend of clip-retrieval runs in the peers' Python (`benchmarks.peers`), over the same FAISS file, with its loader of
CLIP models replaced by one that loads none, for there is no network to load them by; without that Python its rows are
left out and the record says so. Runs with their indexes are built once and kept in the folder that the environment
variable BENCH_KEPT names, or else built for the time of the measurement.
"""

import base64
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from benchmarks.decode import photographs
from benchmarks.load import Load, Target, apart
from benchmarks.measure import Comparison, Label, Row, compared, isolated, lower, run_suite, worst_case
from benchmarks.peers import left_out, peer_versions, python_with
from benchmarks.retrieval import KEPT, around, write_features
from benchmarks.retrieval import Scale as FeatureScale
from benchmarks.served import clip_backend, served
from viewfold.pipeline import decode_image
from viewfold.retrieval import BuildSettings, FeatureStream, IndexBundle, make_bundle
from viewfold.retrieval.index.faiss_index import CosineIndex
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing, load_encoder, save_encoder

K = 7
BATCH = 32
PEER = "clip-retrieval"
CLIP_NOTES = [
    "clip-retrieval's loader of CLIP models is replaced by one that loads none: vectors are what both are asked",
    "clip-retrieval's server closes the connection after each answer, so each of its requests opens one",
]
TARGETS = {
    "vector_requests_per_s": 500.0,
    "vector_p99_ms_at_200": 50.0,
    "batching_gain": 1.0,
    "batch32_overhead_vs_bare": 1.3,
    "vs_clip_retrieval": 5.0,
}
LABELS = {
    "vector_requests_per_s": Label(
        what="requests by vector, 7 demonstrations from 10^6 vectors, 32 connections", unit="a second"
    ),
    "vector_p99_ms_at_200": Label(what="99th percentile at 200 requests by vector a second", unit="ms", less=True),
    "vs_clip_retrieval": Label(
        what="requests by vector a second", beside="clip-retrieval's backend on the same index file", case="`{route}`"
    ),
    "batching_gain": Label(
        what="images a second from 32 connections, joined into batches",
        beside="one by one",
        case="{backbone} at {image_px} px",
    ),
    "batch32_overhead_vs_bare": Label(
        what="32 images in one request",
        beside="the bare encoder and FAISS",
        case="{backbone} at {image_px} px",
        less=True,
        why="of what a request adds to an image, the perceptual hash is four fifths (the image decoded whole and "
        "scaled down), which a small encoder cannot hide, though it runs beside it on another core",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Sizes; smaller in tests."""

    rows: int = 10**6
    factory: str = "IVF4096,Flat"
    queries: int = 512
    connections: int = 32
    rate: float = 200.0
    seconds: float = 10.0
    image_seconds: float = 5.0
    warmup_s: float = 1.0
    backbones: tuple[str, ...] = ("resnet-small", "resnet18", "vit_tiny_patch16_224")
    image_rows: int = 100_000
    image_factory: str = "HNSW32"
    image_px: int = 64
    """What the encoders see; the files are larger."""
    file_px: int = 256


FULL = Scale()


@contextmanager
def made_run(backbone: str, factory: str, rows: int, scale: Scale) -> Iterator[Path]:
    """The folder of `write_run`, made in a fresh process unless it was kept."""
    name = f"{backbone}-{scale.image_px}px-{factory.replace(',', '_')}-{rows}"
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(os.environ.get(KEPT) or scratch) / name
        if not run.exists():
            run.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=run.parent) as unfinished:
                isolated(write_run, Path(unfinished) / name, backbone, factory, rows, scale)
                (Path(unfinished) / name).rename(run)
        yield run


def write_run(run: Path, backbone: str, factory: str, rows: int, scale: Scale) -> None:
    """A run folder with an encoder of random weights and an index of synthetic vectors that says that it made them."""
    torch.manual_seed(0)
    config = EncoderConfig(backbone=backbone, preprocessing=Preprocessing(image_size=scale.image_px))
    encoder = Encoder(config).eval()
    identity = save_encoder(encoder, run / "pretrain" / "encoder", lineage={})
    sizes = _sizes(rows, encoder.dim)
    with tempfile.TemporaryDirectory() as features:
        write_features(Path(features) / "set", rows, sizes, encoder_id=identity)
        stream = FeatureStream.open(Path(features) / "set")
        make_bundle(stream, run / "index" / "bundle", factory=factory, settings=BuildSettings())


def vector_bodies(out: Path, scale: Scale, *, clip: bool = False) -> Path:
    """A file of queries near the centres of the index, as our service or as clip-retrieval is asked."""
    sizes = _sizes(scale.rows, 256)
    centres = np.random.default_rng(0).standard_normal((sizes.centres, sizes.dim), dtype=np.float32)
    which = np.random.default_rng(1).integers(0, sizes.centres, scale.queries)
    about = {"modality": "image", "num_images": K, "num_result_ids": K, "indice_name": "viewfold", "deduplicate": False}
    made = []
    for vector in around(centres, which, seed=0).astype(np.float64).round(7).tolist():
        made.append({"embedding_input": vector, **about} if clip else {"vector": vector, "k": K})
    return _written(out, made)


def image_bodies(out: Path, scale: Scale, *, batched: bool) -> Path:
    """A file of queries by image: one in each body, or `BATCH`."""
    queries = [{"image": base64.b64encode(data).decode()} for data in _photographs(scale)]
    return _written(out, [{"queries": queries, "k": K}] if batched else [{**query, "k": K} for query in queries])


def vector_rows(run: Path, port: int, scale: Scale, repeats: int) -> Iterator[Row]:
    """Requests by vector to the `run` that is served: how many, and how long they take at a given rate."""
    target = {"port": port, "path": "/v1/demonstrations", "bodies": vector_bodies(run / "vectors.jsonl", scale)}
    recall = IndexBundle.open(run / "index" / "bundle").info.recall_at_10
    about = {"factory": scale.factory, "rows": scale.rows, "dim": 256, "k": K, "recall_at_10": recall, "device": "cpu"}
    full = Target(connections=scale.connections, **target)  # type: ignore[arg-type]
    loads = [apart(full, scale.seconds, scale.warmup_s) for _ in range(repeats)]
    yield _row("vector_requests_per_s", [load.per_s for load in loads], loads, about, recall >= 0.95)
    # More connections than are ever in use at once, or the generator would wait where a client would not.
    wide = Target(connections=4 * scale.connections, **target)  # type: ignore[arg-type]
    loads = [apart(wide, scale.seconds, scale.warmup_s, rate=scale.rate) for _ in range(repeats)]
    values = [load.quantile_ms(0.99) for load in loads]
    yield _row("vector_p99_ms_at_200", values, loads, {**about, "rate": scale.rate}, recall >= 0.95)


def clip_rows(run: Path, port: int, scale: Scale, repeats: int, python: str) -> Iterator[Row]:
    """The same requests to /knn-service of both, in turns; and ours for demonstrations beside theirs for neighbours."""
    bodies = vector_bodies(run / "knn.jsonl", scale, clip=True)
    own = vector_bodies(run / "vectors.jsonl", scale)
    with (
        tempfile.TemporaryDirectory() as scratch,
        clip_backend(python, run / "index" / "bundle", Path(scratch), scale.rows) as peer_port,
    ):
        targets = [
            Target(port=peer_port, path="/knn-service", bodies=bodies, connections=scale.connections),
            Target(port=port, path="/knn-service", bodies=bodies, connections=scale.connections),
            Target(port=port, path="/v1/demonstrations", bodies=own, connections=scale.connections),
        ]
        loads = [[apart(target, scale.seconds, scale.warmup_s) for target in targets] for _ in range(repeats)]
    assert not sum(load.failures for turn in loads for load in turn), "a server refused"
    for number, target in enumerate(targets[1:], start=1):
        turns = Comparison([1 / turn[number].per_s for turn in loads], [1 / turn[0].per_s for turn in loads])
        about = {"route": target.path, "factory": scale.factory, "rows": scale.rows, "connections": scale.connections}
        yield compared("vs_clip_retrieval", TARGETS["vs_clip_retrieval"], turns, **about)


def image_rows(run: Path, port: int, backbone: str, scale: Scale, repeats: int) -> Iterator[Row]:
    """What joining single requests to the `run` that is served brings, and what the service adds on whole batches."""
    about = {"backbone": backbone, "image_px": scale.image_px, "rows": scale.image_rows}
    times = (scale.image_seconds, scale.warmup_s)
    single = image_bodies(run / "single.jsonl", scale, batched=False)
    with served(run, "service.batching.max_batch=1") as alone:
        ours, peer = (
            Target(port=place, path="/v1/demonstrations", bodies=single, connections=scale.connections)
            for place in (port, alone)
        )
        pairs = [(apart(ours, *times), apart(peer, *times)) for _ in range(repeats)]
    turns = Comparison([1 / load.per_s for load, _ in pairs], [1 / load.per_s for _, load in pairs])
    per_s = {"images_per_s": float(np.median([load.per_s for load, _ in pairs]))}
    yield compared("batching_gain", TARGETS["batching_gain"], turns, **about, **per_s)
    whole = image_bodies(run / "whole.jsonl", scale, batched=True)
    batches = Target(port=port, path="/v1/demonstrations:batch", bodies=whole, connections=1)
    beside = [(apart(batches, *times), isolated(bare_seconds, run, scale)) for _ in range(repeats)]
    values = [1e-3 * load.quantile_ms(0.5) / bare_s for load, bare_s in beside]
    bare = {"bare_images_per_s": BATCH / float(np.median([bare_s for _, bare_s in beside]))}
    yield _row("batch32_overhead_vs_bare", values, [load for load, _ in beside], {**about, **bare})


def bare_seconds(run: Path, scale: Scale) -> float:
    """Median seconds for a batch without a service: files decoded, encoded together, `K` neighbours by FAISS."""
    encoder = load_encoder(run / "pretrain" / "encoder")
    index = CosineIndex.read(run / "index" / "bundle" / "index.faiss").faiss_index
    files, seconds = _photographs(scale), []
    with threadpool_limits(1):
        for _ in range(12):
            start = time.perf_counter()
            pixels = np.stack([decode_image(data, scale.image_px) for data in files])
            vectors = torch.nn.functional.normalize(encoder.encode(torch.from_numpy(pixels)).invariant)
            index.search(vectors.numpy(), K)
            seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[2:]))


def rows(repeats: int, scale: Scale = FULL) -> Iterator[Row]:
    """All measurements, one by one."""
    python = python_with(PEER)
    with made_run("resnet-small", scale.factory, scale.rows, scale) as run, served(run) as port:
        yield from vector_rows(run, port, scale, repeats)
        if python:
            yield from clip_rows(run, port, scale, repeats, python)
    for backbone in scale.backbones:
        with made_run(backbone, scale.image_factory, scale.image_rows, scale) as run, served(run) as port:
            yield from image_rows(run, port, backbone, scale, repeats)


def facts(measured: list[Row]) -> dict[str, Any]:
    """The worst case of each name, and what one must know to read the rows."""
    there = any(row["name"] == "vs_clip_retrieval" for row in measured)
    return {
        "peers": peer_versions(PEER, "faiss-cpu"),
        "worst_case": worst_case(measured, lower_is_better=lower(LABELS)),
        "notes": [
            "service and load generator share the machine; one thread for each pool of the service",
            "the service hashes images beside its encoder, in at most 8 threads and one fewer than there are cores",
            "latencies at a rate count from when a request was due",
            "bare: files decoded one by one, encoded together, searched by FAISS; no hashes, no guards, no HTTP",
            *(CLIP_NOTES if there else [left_out("vs_clip_retrieval", PEER)]),
        ],
    }


def _sizes(rows: int, dim: int) -> FeatureScale:
    return FeatureScale(rows=rows, dim=dim, centres=max(8, rows // 50))


def _photographs(scale: Scale) -> list[bytes]:
    return list(photographs(scale.file_px, scale.file_px, BATCH))


def _written(out: Path, bodies: list[dict[str, Any]]) -> Path:
    out.write_text("".join(json.dumps(body) + "\n" for body in bodies))
    return out


def _row(name: str, values: list[float], loads: list[Load], facts: dict[str, Any], valid: bool = True) -> Row:
    """A row for repeated measurements: their median and its 95 % bootstrap interval."""
    value, low, high = Comparison([1.0] * len(values), values).ratio()
    target, failures = TARGETS[name], sum(load.failures for load in loads)
    reached = value <= target if LABELS[name].less else value >= target
    return {
        "name": name,
        **facts,
        "value": value,
        "low": low,
        "high": high,
        "p50_ms": float(np.median([load.quantile_ms(0.5) for load in loads])),
        "p99_ms": float(np.median([load.quantile_ms(0.99) for load in loads])),
        "failures": failures,
        "repeats": len(values),
        "target": target,
        "met": bool(reached and valid and not failures),
    }


if __name__ == "__main__":
    packages = ("faiss-cpu", "fastapi", "uvicorn")
    run_suite("serve", rows, about=__doc__, repeats=5, packages=packages, labels=LABELS, facts=facts)
