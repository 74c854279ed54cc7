"""3DIEBench's index files: which objects are in which split, in the official order (arXiv:2302.10283)."""

import math
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from viewfold.errors import InvalidInput
from viewfold.pipeline.indexer import file_sha256
from viewfold.pipeline.npy import read_npy

SPLITS = ("train", "val")

_ENTRY = re.compile(r"/?([0-9]{8})/([A-Za-z0-9_-]+)/?")


class IndexedObject(NamedTuple):
    """One entry of an index file."""

    source: str
    """The entry as it stands there: `/<synset>/<object id>/`."""
    synset: str
    name: str
    """The object's id, unique within its synset."""

    @property
    def key(self) -> str:
        """Its key in shards."""
        return f"{self.synset}__{self.name}"

    @property
    def path(self) -> str:
        """Its folder below the root."""
        return f"{self.synset}/{self.name}"


@dataclass(frozen=True, eq=False)
class IndexedSplit:
    """The objects of one split, in the order that the rows of its labels and latents have."""

    name: str
    file: Path
    """The index file; the split's labels and latents lie beside it."""
    sha256: str
    """Of the index file, 64 hex digits."""
    objects: tuple[IndexedObject, ...]
    classes: tuple[str, ...]
    """The synsets of all splits, ascending: an object's official label is its synset's place here."""

    def labels(self) -> list[int]:
        """The official label of each object."""
        rank = {synset: label for label, synset in enumerate(self.classes)}
        return [rank[one.synset] for one in self.objects]


def read_index(folder: Path, names: Collection[str]) -> list[IndexedSplit]:
    """The splits `names`, in the order of `SPLITS`, from `<split>_images.npy` and `<split>_labels.npy` in `folder`.

    The index file of a split that is not asked for is read too where it is there, for its synsets count in the labels.

    Raises:
        InvalidInput: a file that is missing or holds something else, an entry that is no `/<synset>/<object id>/` or
            stands twice, in one split or in two, or a label that is not its synset's rank.
    """
    if not folder.is_dir():
        raise InvalidInput(f"{folder}: no such folder")
    files = {name: folder / f"{name}_images.npy" for name in SPLITS}
    for name in names:
        for file in (files[name], folder / f"{name}_labels.npy"):
            if not file.is_file():
                raise InvalidInput(
                    f"{file}: no such file; --index names the folder of the official index files, --split one of them"
                )
    objects = {name: _objects(file) for name, file in files.items() if name in names or file.is_file()}
    _refuse_twice({files[name]: found for name, found in objects.items()})
    classes = tuple(sorted({one.synset for found in objects.values() for one in found}))
    splits = [_split(name, files[name], objects[name], classes) for name in SPLITS if name in names]
    for split in splits:
        _check_labels(split)
    return splits


def _split(name: str, path: Path, objects: tuple[IndexedObject, ...], classes: tuple[str, ...]) -> IndexedSplit:
    with path.open("rb") as file:
        return IndexedSplit(name, path, file_sha256(file), objects, classes)


def _objects(file: Path) -> tuple[IndexedObject, ...]:
    found = []
    for number, entry in enumerate(read_npy(file, kind="U", shape=(None,)).tolist()):
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise InvalidInput(f"{file}: entry {number} is {entry!r}, expected /<synset of 8 digits>/<object id>/")
        found.append(IndexedObject(entry, match[1], match[2]))
    return tuple(found)


def _refuse_twice(objects: dict[Path, tuple[IndexedObject, ...]]) -> None:
    first: dict[str, str] = {}
    for file, found in objects.items():
        for number, one in enumerate(found):
            here = f"entry {number} of {file.name}"
            if (other := first.setdefault(one.path, here)) is not here:
                raise InvalidInput(
                    f"{file}: {one.path} stands twice, as {other} and as {here}; it belongs to one split"
                )


def _check_labels(split: IndexedSplit) -> None:
    file = split.file.with_name(f"{split.name}_labels.npy")
    official = read_npy(file, kind="i", shape=(len(split.objects),)).tolist()
    for number, (one, label, rank) in enumerate(zip(split.objects, official, split.labels(), strict=True)):
        if label != rank:
            raise InvalidInput(
                f"{file}: row {number} is {label}, but {one.path} is of synset {one.synset}, "
                f"which is number {rank} of the {len(split.classes)} synsets in the index files"
            )


class _Official(NamedTuple):
    num_objects: int
    num_classes: int
    majority_share: float
    """Share of the largest class, to four digits or more."""
    sha256: tuple[str, str] | None
    """How the digest of the index file begins and ends, where that is known."""


_OFFICIAL = {
    "train": _Official(41_920, 55, 0.1610, None),
    "val": _Official(10_552, 55, 0.15997, ("9a945e83", "2c38")),
}


def statement(split: IndexedSplit) -> str:
    """Whether this is the official index, and by what that is known."""
    if found := differences(split):
        return f"not the official index: {', '.join(found)}"
    return f"the official index, by its {'counts' if _OFFICIAL[split.name].sha256 is None else 'digest'}"


def differences(split: IndexedSplit) -> list[str]:
    """In what a split is not the official one; nothing for the official index."""
    official = _OFFICIAL[split.name]
    per_class = Counter(one.synset for one in split.objects)
    share = max(per_class.values()) / len(split.objects)
    found = []
    if len(split.objects) != official.num_objects:
        found.append(f"{len(split.objects)} objects instead of {official.num_objects}")
    if len(per_class) != official.num_classes:
        found.append(f"{len(per_class)} classes instead of {official.num_classes}")
    if not math.isclose(share, official.majority_share, abs_tol=5e-5):
        found.append(f"a share of {share:.5f} in the largest class instead of {official.majority_share}")
    if official.sha256 is not None:
        begin, end = official.sha256
        if not (split.sha256.startswith(begin) and split.sha256.endswith(end)):
            found.append(f"sha256 {split.sha256[:8]}...{split.sha256[-4:]} instead of {begin}...{end}")
    return found
