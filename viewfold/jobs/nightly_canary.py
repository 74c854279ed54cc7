"""Canaries: images whose label is known, asked of the pair that is to serve, with what its answers must be like."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from viewfold.folders import whole_folder
from viewfold.jobs.ask_pair import open_pair
from viewfold.jobs.data import source
from viewfold.jobs.nightly_config import CanaryConfig
from viewfold.jobs.run_folder import Run
from viewfold.keyed import key64
from viewfold.pipeline.manifest import ShardManifest
from viewfold.retrieval import DemoSet, SelectConfig, select

CANARIES = "canaries.json"


@dataclass(frozen=True)
class Canary:
    """An image and what is known of it."""

    key: str
    label: str
    file: Path


def keep_canaries(run: Run, out: Path, *, images: int) -> None:
    """Put some labelled images of the finished run's data into `out`, which is then found by later calls.

    They are of what the run holds back, else of what was learned from, and have a label that some image of the index
    has; always the same ones of the same data.
    """
    if out.is_dir():
        return
    pool = source(run.manifest(), run.sources(labelled=True))
    known = {pool.labels[index] for index in np.unique(pool.label)}
    for asked in filter(None, (run.asked(), pool)):
        rows = [int(row) for row in np.flatnonzero(asked.label >= 0) if asked.labels[asked.label[row]] in known]
        if rows:
            _write(asked, sorted(rows, key=lambda row: key64("canary", asked.image_key(row, 0)))[:images], out)
            return
    raise AssertionError("an index was made, so that some image of its run has a label")


def read_canaries(folder: Path) -> list[Canary]:
    """What `keep_canaries` put there."""
    known = json.loads((folder / CANARIES).read_text(encoding="utf-8"))
    return [Canary(one["key"], one["label"], folder / one["file"]) for one in known]


def asked_here(source: str, home: Path, canaries: Sequence[Canary], k: int) -> list[DemoSet]:
    """The demonstrations for each canary from the pair that `source` names, opened and held against its sums here.

    Raises:
        InvalidInput, ArtifactMismatch: the pair cannot be opened, or does not belong together.
    """
    pair = open_pair(source, home)
    queries = [pair.query(canary.file.read_bytes(), canary.key) for canary in canaries]
    return select(pair.bundle, queries, SelectConfig(k=k))


def complaint(
    canaries: Sequence[Canary], answers: Sequence[DemoSet], config: CanaryConfig, *, encoder_id: str, bundle_id: str
) -> tuple[str, float]:
    """What is wrong with the answers, in one line, empty where nothing is; and the precision of the demonstrations."""
    served = {(demos.encoder_id, demos.bundle_id) for demos in answers}
    shares = [
        sum(item.label == canary.label for item in demos.items) / config.k
        for canary, demos in zip(canaries, answers, strict=True)
    ]
    precision = round(sum(shares) / len(shares), 4)
    if served != {(encoder_id, bundle_id)}:
        others = ", ".join(sorted(f"encoder {e} and index {b}" for e, b in served - {(encoder_id, bundle_id)}))
        return f"answers come from {others}, not from encoder {encoder_id} and index {bundle_id}", precision
    short = [canary.key for canary, demos in zip(canaries, answers, strict=True) if len(demos.items) < config.k]
    if short:
        return (
            f"{len(short)} of {len(canaries)} canaries get fewer than {config.k} demonstrations: {short[0]}",
            precision,
        )
    if precision < config.min_precision:
        return (
            f"{precision:.0%} of the demonstrations carry the label, canary.min_precision={config.min_precision:.0%}",
            precision,
        )
    return "", precision


def _write(manifest: ShardManifest, rows: Sequence[int], out: Path) -> None:
    with whole_folder(out) as folder, manifest.reader() as reader:
        known = []
        for number, row in enumerate(rows):
            file = f"{number:04d}.image"
            (folder / file).write_bytes(reader.read(manifest.shard(row), manifest.samples.images(row)[0]))
            known.append(
                {"key": manifest.image_key(row, 0), "label": manifest.labels[manifest.label[row]], "file": file}
            )
        (folder / CANARIES).write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
