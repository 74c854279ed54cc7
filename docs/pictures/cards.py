"""Paper for the pictures: a white card, tiles on it, the shipped images, and a small PNG at the end."""

import io
import textwrap
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from viewfold.pipeline.decode import decode_image
from viewfold.pipeline.manifest import ShardManifest

OUT = Path(__file__).parent

Pixels = NDArray[np.uint8]


def card(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty white card whose axes go from 0 to 1; inches at 150 pixels each."""
    figure = plt.figure(figsize=(width, height), dpi=150)
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.axis("off")
    return figure, axes


def text(axes: Axes, x: float, y: float, words: str, **how: Any) -> None:
    """Words that begin at a place of the card."""
    axes.text(x, y, words, va="center", **how)


def tile(axes: Axes, pixels: Pixels, x: float, y: float, width: float) -> None:
    """A square picture around a place of the card, as wide as `width` of it."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    inches = figure.get_size_inches()
    low, high = axes.get_ylim()
    half, tall = width / 2, width / 2 * inches[0] / inches[1] * (high - low)
    axes.imshow(pixels, extent=(x - half, x + half, y - tall, y + tall), aspect="auto", zorder=3)
    axes.set(xlim=(0, 1), ylim=(low, high))


def strip(figure: Figure, vector: NDArray[np.float32], left: float, y: float, width: float) -> None:
    """Numbers of a vector as coloured bars."""
    axes = figure.add_axes((left, y - 0.08, width, 0.16))
    axes.imshow(vector[None], aspect="auto", cmap="viridis")
    axes.axis("off")


def wrapped(words: str, width: int) -> list[str]:
    """Lines of at most `width` characters, where there are spaces."""
    return [line for paragraph in words.split("\n") for line in textwrap.wrap(paragraph, width)]


def row_of(manifest: ShardManifest, domain: str, group: str) -> int:
    """The row of a thing in a domain."""
    here = (manifest.domain == manifest.domains.index(domain)) & (manifest.group == manifest.groups.index(group))
    return int(np.flatnonzero(here)[0])


def stored(manifest: ShardManifest, row: int, size: int) -> torch.Tensor:
    """The stored image of a row: uint8 `[3, size, size]`."""
    return torch.as_tensor(np.asarray(decode_image(file_of(manifest, row), size)))


def file_of(manifest: ShardManifest, row: int) -> bytes:
    """The image file of a row, from its shard."""
    with manifest.reader() as reader:
        return reader.read(manifest.shard(row), manifest.samples.images(row)[0])


def decoded(data: bytes, size: int) -> Pixels:
    """An image file as `[size, size, 3]`."""
    return np.ascontiguousarray(decode_image(data, size).transpose(1, 2, 0))


def to_pixels(view: torch.Tensor) -> Pixels:
    """A view in 0..1 as `[height, width, 3]`."""
    return (view.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def save(figure: Figure, name: str) -> None:
    """A PNG of 128 colours: a phone on a slow line should have it at once."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.08)
    plt.close(figure)
    picture = Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    picture.save(OUT / f"{name}.png", optimize=True)
    print(f"{name}.png: {(OUT / f'{name}.png').stat().st_size // 1000} kB, {picture.width} x {picture.height}")
