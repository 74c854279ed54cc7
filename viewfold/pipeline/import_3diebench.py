"""3DIEBench as it is published to shards whose samples are objects: all views of one, with their latents.

What is read: `ROOT/<synset>/<object id>/image_<view>.jpg`, beside it `latent_<view>.npy`, and the index files.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from viewfold.errors import InvalidInput
from viewfold.folders import whole_folder
from viewfold.pipeline.decode import storable
from viewfold.pipeline.index_3diebench import IndexedObject, IndexedSplit
from viewfold.pipeline.indexer import index_shards
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.npy import read_npy
from viewfold.pipeline.packing import refuse_used, shard_writer

NUM_LATENTS = 7
"""Of each view: three angles (rad), floor hue, polar angle and azimuth of the spot light (rad), its hue."""
OBJECTS_NAME = "objects.json"

_IMAGE = re.compile(r"image_[0-9]+\.jpg")
_NUM_COMPARED = 8
"""Objects whose own latents are held against the table of all, where both are there."""


def import_3diebench(
    root: Path,
    splits: Sequence[IndexedSplit],
    out: Path,
    *,
    shard_bytes: int = 256_000_000,
    progress: Callable[[int], object] = lambda num_objects: None,
) -> dict[str, ShardManifest]:
    """Pack the objects of each split into shards `out/<split>/<split>-000000.tar ...`, in the order of its index file.

    Each `out/<split>` has a manifest of its own, whose rows have that order too, and `objects.json` with the official
    labels. A view's latents come from `all_latents_<split>.npy` beside the index file, row `views * object + view`, or,
    where that is not there, from the object's own files. The same input gives the same bytes; the images of one object
    are in memory at a time. `out` appears whole or not at all. `progress` is called with 1 after each object.

    Raises:
        InvalidInput: `out` is in use, an object without a folder, a view that is missing or cannot be decoded, or
            latents of another shape, that are not finite, or that differ between the two places.
    """
    if not root.is_dir():
        raise InvalidInput(f"{root}: no such folder")
    refuse_used(out)
    sources = [_Source.of(root, split) for split in splits]
    with whole_folder(out.absolute()) as part:
        for source in sources:
            _pack(source, part / source.split.name, shard_bytes=shard_bytes, progress=progress)
    return {split.name: ShardManifest.load(out / split.name) for split in splits}


@dataclass(frozen=True, eq=False)
class _Source:
    """The files of one split, every one of them seen to be there."""

    root: Path
    split: IndexedSplit
    num_views: int
    table: NDArray[np.floating] | None
    """Latents of all views, on the disk; None where each object has its own."""

    @staticmethod
    def of(root: Path, split: IndexedSplit) -> "_Source":
        """Look at every folder and at the table of latents; no image is read."""
        file = _table_file(split)
        has_table = file.is_file()
        num_views = _count_views(root, split, with_latents=not has_table)
        shape = (num_views * len(split.objects), NUM_LATENTS)
        table = read_npy(file, kind="f", shape=shape, mapped=True) if has_table else None
        source = _Source(root, split, num_views, table)
        source._compare_latents()
        return source

    def latents(self, number: int) -> NDArray[np.floating]:
        """`[view, latent]` of the object of this number in the index file."""
        one = self.split.objects[number]
        rows = slice(self.num_views * number, self.num_views * (number + 1))
        latents = self._own_latents(one) if self.table is None else np.array(self.table[rows])
        finite = np.isfinite(latents).all(axis=1)
        if not finite.all():
            view = int(finite.argmin())
            own = self.root / one.path / _latent(view)
            where = own if self.table is None else f"{_table_file(self.split)}: row {rows.start + view}, {one.path}"
            raise InvalidInput(f"{where}: a latent is not a finite number")
        return latents

    def _own_latents(self, one: IndexedObject) -> NDArray[np.floating]:
        folder = self.root / one.path
        return np.stack(
            [read_npy(folder / _latent(view), kind="f", shape=(NUM_LATENTS,)) for view in range(self.num_views)]
        )

    def _compare_latents(self) -> None:
        """Hold the table against some objects that have latents of their own: a table in another order looks whole."""
        if self.table is None:
            return
        for number in np.unique(np.linspace(0, len(self.split.objects) - 1, _NUM_COMPARED, dtype=int)).tolist():
            one = self.split.objects[number]
            if not (self.root / one.path / _latent(0)).is_file():
                continue
            if not np.allclose(self.latents(number), self._own_latents(one), rtol=0, atol=1e-6):
                begin = self.num_views * number
                raise InvalidInput(
                    f"{_table_file(self.split)}: rows {begin}..{begin + self.num_views - 1} are not the latents in "
                    f"{self.root / one.path}; it was made for another index file"
                )


def _table_file(split: IndexedSplit) -> Path:
    return split.file.with_name(f"all_latents_{split.name}.npy")


def _image(view: int) -> str:
    return f"image_{view}.jpg"


def _latent(view: int) -> str:
    return f"latent_{view}.npy"


def _count_views(root: Path, split: IndexedSplit, *, with_latents: bool) -> int:
    """Views of each object: as many as the first one has."""
    first = split.objects[0].path
    num_views = max(1, sum(_IMAGE.fullmatch(name) is not None for name in _names(root, split, split.objects[0])))
    kinds = (_image, _latent) if with_latents else (_image,)
    wanted = [name(view) for name in kinds for view in range(num_views)]
    for one in split.objects:
        names = _names(root, split, one)
        for name in wanted:
            if name not in names:
                raise InvalidInput(f"{root / one.path / name}: no such file, and {num_views} views are expected")
        if _image(num_views) in names:
            raise InvalidInput(
                f"{root / one.path / _image(num_views)}: one view more than the {num_views} of {first}; "
                "all objects of a split must have equally many"
            )
    return num_views


def _names(root: Path, split: IndexedSplit, one: IndexedObject) -> set[str]:
    try:
        return set(os.listdir(root / one.path))
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidInput(f"{root / one.path}: no such folder, and {split.file} lists it") from None


def _pack(source: _Source, folder: Path, *, shard_bytes: int, progress: Callable[[int], object]) -> None:
    split = source.split
    folder.mkdir()
    with shard_writer(folder, split.name, shard_bytes=shard_bytes) as writer:
        for number, one in enumerate(split.objects):
            about = {
                "group": one.key,
                "label": one.synset,
                "source": one.source,
                "latents": source.latents(number).tolist(),
            }
            writer.write({"__key__": one.key, **_images(source, one), "json": json.dumps(about).encode()})
            progress(1)
    index_shards(sorted(folder.glob("*.tar")), folder)
    _write_objects(split, folder / OBJECTS_NAME, num_views=source.num_views)


def _images(source: _Source, one: IndexedObject) -> Mapping[str, bytes]:
    """The views' files by extension, as they are: each one decoded once, to its end."""
    width = max(2, len(str(source.num_views - 1)))
    images = {}
    for view in range(source.num_views):
        file = source.root / one.path / _image(view)
        try:
            extension, data = storable(file.read_bytes())
        except InvalidInput as error:
            raise InvalidInput(f"{file}: {error}") from None
        if extension != "jpg":
            raise InvalidInput(f"{file}: an image, but not a JPEG")
        images[f"{view:0{width}d}.jpg"] = data
    return images


def _write_objects(split: IndexedSplit, path: Path, *, num_views: int) -> None:
    fields = {
        "split": split.name,
        "index": {"name": split.file.name, "sha256": split.sha256},
        "num_views": num_views,
        "classes": split.classes,
        "labels": split.labels(),
        "keys": [one.key for one in split.objects],
    }
    path.write_text(json.dumps(fields), encoding="utf-8")
