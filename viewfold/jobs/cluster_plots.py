"""The pictures of a clustering: similarities of features by cluster, coding lengths, some images of each cluster."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray

from viewfold.jobs.cluster_rows import ClusterRows
from viewfold.jobs.plots import COLOURS
from viewfold.pipeline.images import read_images
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.stage import write_whole

_MAP_ROWS = 1000
_MOST_CLUSTERS, _EACH = 40, 12  # of a contact sheet: rows, and images in a row
_TILE, _GAP, _DPI = 64, 4, 100
_CAPTION_INCHES = 2.0


def heat_map(
    z: NDArray[np.float32], cluster: NDArray[np.int64], out: Path, *, lengths: Mapping[int, float], taken: int
) -> Path:
    """|ZZ'| of the unit rows `z` `[image, dim]` sorted by `cluster`, and the coding length by number of clusters.

    Of more than 1000 images as many are drawn, evenly taken from the sorted ones, so that clusters keep their shares.
    `taken` is the number of clusters that was chosen; some of them may be empty.
    """
    return _save(_heat_figure(z, cluster, lengths, taken=taken), out)


def cluster_sheet(manifest: ShardManifest, rows: ClusterRows, cluster: NDArray[np.int64], out: Path) -> Path:
    """A row of images for each cluster, evenly taken from it, beside its size and its most frequent label.

    Of more than 40 clusters the largest are shown; `cluster` numbers them from the largest.
    """
    members = [np.flatnonzero(cluster == number) for number in range(min(int(cluster.max()) + 1, _MOST_CLUSTERS))]
    chosen = [own[np.unique(np.linspace(0, len(own) - 1, _EACH).round().astype(int))] for own in members]
    tiles = _tiles(manifest, rows, np.concatenate(chosen))
    step = _TILE + _GAP
    canvas = np.full((len(chosen) * step, _EACH * step, 3), 255, dtype=np.uint8)
    for line, images in enumerate(chosen):
        for column, image in enumerate(images):
            canvas[line * step : line * step + _TILE, column * step : column * step + _TILE] = tiles[int(image)]
    height, width = canvas.shape[0] / _DPI, canvas.shape[1] / _DPI
    figure = Figure(figsize=(width + _CAPTION_INCHES, height), dpi=_DPI)
    axes = figure.add_axes((_CAPTION_INCHES / (width + _CAPTION_INCHES), 0, width / (width + _CAPTION_INCHES), 1))
    axes.imshow(canvas, interpolation="nearest", aspect="auto")
    axes.set(xticks=[], yticks=[line * step + _TILE / 2 for line in range(len(chosen))])
    axes.set_yticklabels(
        [_caption(number, own, rows, manifest.labels) for number, own in enumerate(members)], fontsize=8
    )
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
    return _save(figure, out)


def _heat_figure(
    z: NDArray[np.float32], cluster: NDArray[np.int64], lengths: Mapping[int, float], *, taken: int
) -> Figure:
    order = np.argsort(cluster, kind="stable")
    shown = order[np.linspace(0, len(order) - 1, min(len(order), _MAP_ROWS)).round().astype(int)]
    figure = Figure(figsize=(9.6, 4.8), layout="constrained", dpi=_DPI)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    picture = left.imshow(np.abs(z[shown] @ z[shown].T), cmap="magma", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(picture, ax=left, shrink=0.85, label="|cosine| of two images' features")
    of_all = "" if len(shown) == len(order) else f", {len(shown)} of {len(order)}"
    left.set_title(f"|ZZ'|, images sorted by cluster{of_all}", fontsize=10)
    _mark_clusters(left, cluster[shown])
    _draw_lengths(right, lengths, taken)
    return figure


def _mark_clusters(axes: Axes, cluster: NDArray[np.int64]) -> None:
    """Lines between clusters, and the numbers of those that are wide enough to hold one."""
    ends = np.flatnonzero(np.diff(cluster)) + 0.5
    for end in ends:
        axes.axhline(end, color=COLOURS[0], lw=0.6)
        axes.axvline(end, color=COLOURS[0], lw=0.6)
    middles = {int(one): float(np.flatnonzero(cluster == one).mean()) for one in np.unique(cluster)}
    wide = {one: at for one, at in middles.items() if (cluster == one).sum() > 0.035 * len(cluster)}
    axes.set(xticks=list(wide.values()), yticks=list(wide.values()))
    axes.set_xticklabels(list(map(str, wide)), fontsize=7)
    axes.set_yticklabels(list(map(str, wide)), fontsize=7)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="cluster", ylabel="cluster")


def _draw_lengths(axes: Axes, lengths: Mapping[int, float], chosen: int) -> None:
    numbers = sorted(lengths)
    axes.plot(numbers, [lengths[number] for number in numbers], marker="o", ms=4, color=COLOURS[2])
    if chosen in lengths:
        axes.plot([chosen], [lengths[chosen]], marker="o", ms=8, ls="", color=COLOURS[3], label=f"taken: {chosen}")
    best = min(numbers, key=lambda number: lengths[number])
    if best != chosen:
        axes.plot([best], [lengths[best]], marker="s", ms=7, ls="", color=COLOURS[1], label=f"shortest: {best}")
    axes.legend(frameon=False, fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set(xlabel="number of clusters", ylabel="coding length (nats)")
    axes.set_title("coding length of the clusters", fontsize=10)


def _tiles(manifest: ShardManifest, rows: ClusterRows, images: NDArray[np.int64]) -> dict[int, NDArray[np.uint8]]:
    """The pixels `[side, side, 3]` of some images, by their number."""
    wanted = {rows.keys[image]: int(image) for image in images}
    tiles = {}
    for batch in read_images(manifest, np.unique(rows.sample[images]), image_size=_TILE, batch_size=256):
        for key, pixels in zip(batch.keys, batch.images, strict=True):
            if key in wanted:
                tiles[wanted[key]] = pixels.permute(1, 2, 0).numpy()
    return tiles


def _caption(number: int, images: NDArray[np.int64], rows: ClusterRows, labels: Sequence[str]) -> str:
    known = rows.label[images][rows.label[images] >= 0]
    size = f"cluster {number}: {len(images)}"
    if not len(known):
        return size
    counts = np.bincount(known)
    name = labels[int(counts.argmax())].replace("$", r"\$")  # names come from files: no mathematics in them
    return f"{size}\n{counts.max() / len(known):.0%} {name if len(name) <= 24 else name[:23] + '.'}"


def _save(figure: Figure, out: Path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return write_whole(out, lambda file: file.write(buffer.getvalue()))
