"""The verbs `viewfold index build`, `add`, `remove`, ...: folders in, one line out. No torch: memory is counted."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from viewfold.errors import InvalidInput
from viewfold.retrieval import (
    BuildSettings,
    FeatureStream,
    IndexBundle,
    add_images,
    compact_bundle,
    export_embeddings,
    fit_calibration,
    import_embeddings,
    inspected,
    inspection,
    make_bundle,
    parse_bytes,
    remove_images,
    scored,
    show_bytes,
)
from viewfold.retrieval.index.bundle import BundleInfo
from viewfold.retrieval.index.faiss_build import ShardTask
from viewfold.retrieval.index.files import changing
from viewfold.retrieval.selection.calibration import FILE as CALIBRATION
from viewfold.retrieval.selection.calibration import Kind


def build(
    features: Path, out: Path, *, factory: str, recall_target: float, memory_cap: str, base: Path | None, ray: bool
) -> str:
    """Build a bundle from a feature set on disk; with `ray`, shards of inverted lists are filled by Ray tasks."""
    with ExitStack() as stack:
        settings = BuildSettings(
            recall_target=recall_target,
            memory_cap=parse_bytes(memory_cap) if memory_cap else None,
            parallel=_ray_map(stack) if ray else map,
        )
        source, other, note = _labelled(features, base)
        info = make_bundle(source, out, factory=factory, settings=settings, base=other)
    return _line(out, info) + note


def add(bundle: Path, features: Path, *, base: Path | None) -> str:
    """Add the images of a feature set to a bundle."""
    source, other, note = _labelled(features, base)
    return _line(bundle, add_images(bundle, source, base=other)) + note


def remove(bundle: Path, keys: Sequence[str], *, keys_file: Path | None) -> str:
    """Remove the images with these keys, and with those that the file lists, one a line."""
    listed = [] if keys_file is None else keys_file.read_text(encoding="utf-8").split("\n")
    every = list(dict.fromkeys([*keys, *(key for key in listed if key)]))
    if not every:
        raise InvalidInput("name the keys to remove, or a file of them with --keys-file")
    return _line(bundle, remove_images(bundle, every))


def compact(bundle: Path, *, factory: str, memory_cap: str) -> str:
    """Build a bundle again without what was removed; an empty `factory` is that of the bundle."""
    settings = None
    if memory_cap:
        target = IndexBundle.open(bundle).info.recall_target
        settings = BuildSettings(recall_target=target, memory_cap=parse_bytes(memory_cap))
    return _line(bundle, compact_bundle(bundle, factory=factory or None, settings=settings))


def score(bundle: Path, features: Path) -> str:
    """How a bundle answers new images, one measure a line."""
    facts = scored(bundle, FeatureStream.open(features))
    return "\n".join(
        f"{name:14} {value:.4f}" if isinstance(value, float) else f"{name:14} {value}" for name, value in facts.items()
    )


def calibrate(folder: Path, *, kind: Kind) -> str:
    """Fit on the bundle's own images how probable a match is at each cosine; the curve is kept with the bundle."""
    with changing(folder):
        fitted = fit_calibration(IndexBundle.open(folder), kind=kind)
        fitted.save(folder / CALIBRATION)
    scores = np.linspace(fitted.scores[0], fitted.scores[-1], 5)
    curve = ", ".join(f"{p:.2f} at {s:.3f}" for s, p in zip(scores, fitted.probability(scores), strict=True))
    return (
        f"{folder / CALIBRATION}: {fitted.num_pairs} pairs across domains, {fitted.base_rate:.3f} of one label\n"
        f"probability of a match by cosine: {curve}"
    )


def inspect_bundle(bundle: Path, *, as_json: bool) -> str:
    """What a bundle is, as a table or as JSON."""
    facts = inspected(bundle)
    return json.dumps(facts, indent=2) if as_json else inspection(facts)


def export_to(source: Path, out: Path) -> str:
    """Write embeddings where autofaiss and clip-retrieval look for them."""
    return f"{out}: {export_embeddings(source, out)} embeddings in img_emb/, their records in metadata/"


def import_from(source: Path, out: Path, *, encoder_id: str) -> str:
    """Read such a folder as a feature set."""
    return f"{out}: feature set of {import_embeddings(source, out, encoder_id=encoder_id)} images, encoder {encoder_id}"


def _labelled(features: Path, base: Path | None) -> tuple[FeatureStream, FeatureStream | None, str]:
    """What may be shown, images with a label, and a note on the others; without any label, all for search alone."""
    source, other = FeatureStream.open(features), None if base is None else FeatureStream.open(base)
    kept = pc.not_equal(pc.fill_null(source.column("label"), ""), "").to_numpy()
    without = len(kept) - int(kept.sum())
    if not without:
        return source, other, ""
    if without == len(kept):
        return source, other, "\nno image has a label: the index can be searched, and shows no demonstrations"
    shown = source.where(kept)
    if other is not None:
        keys = shown.column("key")
        other = other.where(pc.is_in(other.column("key"), value_set=pa.array(keys.to_pylist())).to_numpy())
    return shown, other, f"\n{without} images without a label were left out: a demonstration shows one"


def _line(folder: Path, info: BundleInfo) -> str:
    cap = f" of {show_bytes(info.memory_cap_bytes)}" if info.memory_cap_bytes else ""
    line = (
        f"{folder}: index {info.id}, {info.n - info.num_deleted} images ({info.change}), {info.factory}, "
        f"recall@10 {info.recall_at_10:.4f}, {info.latency_ms:.2f} ms, {info.bytes_per_vector:.0f} bytes a vector, "
        f"peak {show_bytes(info.peak_memory_bytes)}{cap}"
    )
    if info.recall_at_10 < info.recall_target - 0.005:
        line += f"\nrecall@10 is below the target {info.recall_target:g}: give more memory, or another --factory"
    return line


def _ray_map(stack: ExitStack) -> Callable[[Callable[[ShardTask], int], Iterable[ShardTask]], Iterator[int]]:
    from viewfold.pipeline.executor import map_ray, ray_session

    stack.enter_context(ray_session())
    return map_ray
