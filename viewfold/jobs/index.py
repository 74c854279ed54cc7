"""From feature sets to a published index bundle."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from viewfold.config import Config
from viewfold.errors import InvalidInput
from viewfold.jobs.data import DataConfig
from viewfold.pipeline.images import read_images
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.progress import Meter, progress
from viewfold.retrieval import BuildSettings, FeatureStream, build_bundle, parse_bytes


@dataclass(frozen=True, kw_only=True)
class IndexConfig(Config):
    """What index is built."""

    factory: str = "auto"
    """A FAISS factory string; `Flat` is exact search, `auto` picks by the number of images, the cap and the recall."""
    recall_target: float = 0.95
    """Share of the exact ten nearest that a search is to find; picks the factory, and how far the index looks."""
    memory_cap: str = ""
    """What building may take, such as `8GiB`, the process itself included; empty for no limit."""
    thumbnail_px: int = 64
    """Side of the thumbnails that are kept beside the vectors."""

    def __post_init__(self) -> None:
        if self.thumbnail_px < 8:
            raise ValueError(f"thumbnail_px must be at least 8, got {self.thumbnail_px}")
        self.settings()

    def settings(self) -> BuildSettings:
        """What the builder is given."""
        cap = parse_bytes(self.memory_cap) if self.memory_cap else None
        return BuildSettings(recall_target=self.recall_target, memory_cap=cap)


def build_index(
    features: Path,
    manifest: ShardManifest,
    config: IndexConfig,
    *,
    shown: DataConfig,
    card: Path | None,
    out: Path,
) -> dict[str, Any]:
    """Build `out/bundle` from the labelled images that `shown` asks for; the base encoder's vectors go in with them.

    `manifest` has these samples, and may have more.
    """
    names = sorted(path.name for path in features.iterdir() if path.is_dir())
    pool = _pool(FeatureStream.open(features / ("adapted" if "adapted" in names else "pretrained")), shown)
    base = _pool(FeatureStream.open(features / "pretrained"), shown) if "adapted" in names else None
    with progress("index", total=len(pool)) as bar:
        bundle = build_bundle(
            pool,
            out / "bundle",
            factory=config.factory,
            settings=config.settings(),
            base=base,
            thumbnails=_thumbnails(manifest, set(pool.records.column("key").to_pylist()), config.thumbnail_px, bar),
            card=card,
        )
    info = bundle.info
    return {
        "bundle_id": info.id,
        "encoder_id": info.encoder_id,
        "images": info.n,
        "dim": info.dim,
        "factory": info.factory,
        "recall_at_10": info.recall_at_10,
        "peak_memory_bytes": info.peak_memory_bytes,
    }


def _pool(features: FeatureStream, shown: DataConfig) -> FeatureStream:
    """What may be shown: labelled, and of a domain and a group that `shown` leaves in."""
    domains, groups, labels = (features.records.column(name).to_pylist() for name in ("domain", "group", "label"))
    without_domains, without_groups = set(shown.without_domains), set(shown.without_groups)
    kept = [
        bool(label)
        and (not shown.domains or domain in shown.domains)
        and domain not in without_domains
        and group not in without_groups
        for domain, group, label in zip(domains, groups, labels, strict=True)
    ]
    if not any(kept):
        raise InvalidInput(
            "no labelled image is left to index; look at held_out, data.domains, data.without_domains and "
            "data.without_groups"
        )
    return features.where(np.array(kept))


def _thumbnails(manifest: ShardManifest, keys: set[str], size: int, bar: Meter) -> Iterator[tuple[str, bytes]]:
    for batch in read_images(manifest, np.arange(len(manifest)), image_size=size, batch_size=256):
        for key, image in zip(batch.keys, batch.images, strict=True):
            if key in keys:
                yield key, jpeg(image.permute(1, 2, 0).numpy())
                bar.advance()


def jpeg(pixels: np.ndarray) -> bytes:
    """uint8 `[height, width, 3]` as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()
