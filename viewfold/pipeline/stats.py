"""What a data set holds, in numbers and at one glance."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from viewfold.errors import InvalidInput, ShardError
from viewfold.pipeline.decode import decode_image
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.reader import ShardReader
from viewfold.pipeline.stage import write_whole

NO_NAME = "(none)"

TILE_PX = 64
TILES_PER_ROW = 14
"""Thumbnails in one row of the sheet, shared by its domains."""
MAX_LABELS, MAX_DOMAINS = 40, 12
_MARGIN, _CAPTION, _HEADER, _GAP = 150, 13, 34, 10


def count(manifest: ShardManifest) -> dict[str, Any]:
    """Counts by name; `labels` and `domains` map each name, most frequent first, to its samples."""
    shards = np.unique(manifest.samples.shard(np.arange(len(manifest)))).tolist()
    return {
        "samples": len(manifest),
        "images": int(manifest.samples.image_counts().sum()),
        "shards": len(shards),
        "bytes": sum(manifest.shards[shard].bytes for shard in shards),
        "labelled": int((manifest.label >= 0).sum()),
        "groups": len(np.unique(manifest.group[manifest.group >= 0])),
        "latents": manifest.num_latents,
        "labels": _frequencies(manifest.label, manifest.labels),
        "domains": _frequencies(manifest.domain, manifest.domains),
    }


def contact_sheet(manifest: ShardManifest, path: Path) -> Path:
    """Draw some images of every label, one row each, grouped by domain, and write them as a PNG.

    Samples are taken evenly over the manifest; labels and domains beyond the most frequent are counted in the title.
    An image that cannot be decoded is a crossed-out tile: a broken set is what one looks at.
    """
    labels = _most_frequent(manifest.label, MAX_LABELS)
    domains = _most_frequent(manifest.domain, MAX_DOMAINS)
    tiles = max(1, TILES_PER_ROW // len(domains))
    column = tiles * TILE_PX + _GAP
    height = _HEADER + len(labels) * (TILE_PX + _CAPTION)
    sheet = Image.new("RGB", (_MARGIN + len(domains) * column, height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    pen.text((4, 3), _title(manifest, len(labels), len(domains)), fill="black", font=font)
    for place, domain in enumerate(domains):
        caption = _fitted(_name(manifest.domains, domain), font, column - _GAP) if manifest.domains else ""
        pen.text((_MARGIN + place * column, _HEADER - 15), caption, fill="black", font=font)
    with manifest.reader() as reader:
        for line, label in enumerate(labels):
            top = _HEADER + line * (TILE_PX + _CAPTION)
            pen.text((4, top + 24), _fitted(_name(manifest.labels, label), font, _MARGIN - 8), fill="black", font=font)
            pen.text((4, top + 38), f"{(manifest.label == label).sum()} samples", fill="gray", font=font)
            for place, domain in enumerate(domains):
                rows = np.flatnonzero((manifest.label == label) & (manifest.domain == domain))
                for number, row in enumerate(_spread(rows, tiles)):
                    left = _MARGIN + place * column + number * TILE_PX
                    sheet.paste(_tile(manifest, reader, row, number), (left, top))
    return write_whole(path, lambda file: sheet.save(file, "PNG"))


def _frequencies(indices: NDArray[np.int64], names: tuple[str, ...]) -> dict[str, int]:
    found, counts = np.unique(indices, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {_name(names, found[i]): int(counts[i]) for i in order} if names else {}


def _most_frequent(indices: NDArray[np.int64], limit: int) -> list[int]:
    """The `limit` most frequent indices, in the vocabulary's order; samples without a name come last."""
    found, counts = np.unique(indices, return_counts=True)
    kept = found[np.argsort(-counts, kind="stable")[:limit]]
    return sorted(kept.tolist(), key=lambda index: (index < 0, index))


def _name(names: tuple[str, ...], index: int) -> str:
    return names[index] if index >= 0 else NO_NAME


def _title(manifest: ShardManifest, num_labels: int, num_domains: int) -> str:
    images = int(manifest.samples.image_counts().sum())
    left_out = [
        f"{len(np.unique(indices)) - shown} {what} not shown"
        for what, indices, shown in (("labels", manifest.label, num_labels), ("domains", manifest.domain, num_domains))
        if len(np.unique(indices)) > shown
    ]
    return "; ".join([f"{len(manifest)} samples, {images} images", f"manifest {manifest.hash[:12]}", *left_out])


def _fitted(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    """`text`, with its middle left out where it is too long: names often differ at both ends only."""
    kept = len(text)
    fitted = text
    while font.getlength(fitted) > width and kept > 2:
        kept -= 1
        fitted = f"{text[: (kept + 1) // 2]}..{text[len(text) - kept // 2 :]}"
    return fitted


def _spread(rows: NDArray[np.int64], limit: int) -> list[int]:
    """At most `limit` of the rows, evenly over them."""
    return rows[np.linspace(0, len(rows) - 1, min(limit, len(rows))).round().astype(int)].tolist() if len(rows) else []


def _tile(manifest: ShardManifest, reader: ShardReader, row: int, number: int) -> Image.Image:
    """Thumbnail of a sample; of an object with several images, its tiles go through them."""
    images = manifest.samples.images(row)
    try:
        data = reader.read(manifest.shard(row), images[number % len(images)])
        return Image.fromarray(decode_image(data, TILE_PX - 2).transpose(1, 2, 0))
    except ShardError:
        raise
    except InvalidInput:
        crossed = Image.new("RGB", (TILE_PX - 2, TILE_PX - 2), "lightgray")
        ImageDraw.Draw(crossed).line([0, 0, TILE_PX, TILE_PX, 0, TILE_PX, TILE_PX, 0], fill="red", width=2)
        return crossed
