"""What a set of shards holds: one small JSON and a table with a row for each sample, made once and loaded in a moment.

The manifest's hash names the data set wherever it lies: it covers the shards' names, sizes and sha256, and every row
of the sample table.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from viewfold.config import unknown
from viewfold.errors import InvalidInput
from viewfold.pipeline.locations import is_remote
from viewfold.pipeline.reader import ShardReader
from viewfold.pipeline.table import SampleTable, table_hash

FORMAT = "viewfold-manifest-2"
MANIFEST_NAME, TABLE_NAME = "manifest.json", "samples.arrow"


@dataclass(frozen=True)
class Shard:
    """One tar of the set."""

    name: str
    """File name without `.tar`."""
    location: str
    """Absolute path or URL."""
    samples: int
    bytes: int
    sha256: str


class Place(NamedTuple):
    """Where the bytes of a stored image lie: name of the shard, offset and size in it."""

    shard: str
    offset: int
    size: int


@dataclass(frozen=True, eq=False)
class ShardManifest:
    """The shards, their samples, and the vocabularies that class, domain and group indices point into."""

    hash: str
    """64 hex digits, independent of where the shards lie."""
    shards: tuple[Shard, ...]
    labels: tuple[str, ...]
    """Sorted; of the whole set, also where this is a part of it."""
    domains: tuple[str, ...]
    groups: tuple[str, ...]
    samples: SampleTable
    num_latents: int
    """Recorded parameters of each stored image; 0 unless every sample has them, and equally many."""

    @staticmethod
    def load(path: Path) -> "ShardManifest":
        """Read the folder that `index_shards` wrote, or the `manifest.json` in it.

        Raises:
            InvalidInput: not there, another format, or a table that is not the one the manifest was written with.
        """
        folder = (path.parent if path.name == MANIFEST_NAME else path).absolute()
        file = folder / MANIFEST_NAME
        try:
            fields = json.loads(file.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise InvalidInput(
                f"{folder}: no {MANIFEST_NAME} and {TABLE_NAME}; make them with `viewfold data index`"
            ) from None
        except ValueError as error:
            raise InvalidInput(f"{file}: not a manifest ({error}); make it again") from None
        if not isinstance(fields, dict) or fields.get("format") != FORMAT:
            raise InvalidInput(f"{file}: not a manifest of format {FORMAT!r}; make it again with `viewfold data index`")
        if table_hash(folder / TABLE_NAME) != fields.get("hash"):
            raise InvalidInput(
                f"{folder}: {TABLE_NAME} is not the table {MANIFEST_NAME} was written with; make both again"
            )
        try:
            return ShardManifest._read(folder, fields)
        except (KeyError, TypeError) as error:
            raise InvalidInput(f"{file}: not a whole manifest ({error}); make it again") from None

    @staticmethod
    def _read(folder: Path, fields: dict[str, Any]) -> "ShardManifest":
        shards = [Shard(**{**entry, "location": _located(folder, entry["location"])}) for entry in fields["shards"]]
        return ShardManifest(
            hash=fields["hash"],
            shards=tuple(shards),
            labels=tuple(fields["labels"]),
            domains=tuple(fields["domains"]),
            groups=tuple(fields["groups"]),
            samples=SampleTable(folder / TABLE_NAME, [shard.samples for shard in shards]),
            num_latents=fields["num_latents"],
        )

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.samples)

    @cached_property
    def label(self) -> NDArray[np.int64]:
        """`[sample]` index into `labels`, -1 for none: 8 bytes a sample from the first use on."""
        return self.samples.column("label")

    @cached_property
    def domain(self) -> NDArray[np.int64]:
        """`[sample]` index into `domains`, -1 for none."""
        return self.samples.column("domain")

    @cached_property
    def group(self) -> NDArray[np.int64]:
        """`[sample]` index into `groups`, -1 for none."""
        return self.samples.column("group")

    def key(self, row: int) -> str:
        """Identity of a sample: shard name, a slash, the key within the shard."""
        return f"{self.shards[self.shard(row)].name}/{self.samples.key(row)}"

    def shard(self, row: int) -> int:
        """Which of `shards` a sample lies in."""
        return int(self.samples.shard(np.array([row]))[0])

    def image_key(self, row: int, member: int) -> str:
        """Identity of one stored image: that of its sample, and, of several images, a dot and two digits."""
        return self.key(row) if self.num_images(row) == 1 else f"{self.key(row)}.{member:02d}"

    def num_images(self, row: int) -> int:
        """Stored images of a sample."""
        return self.samples.num_images(row)

    def place(self, row: int, member: int) -> Place:
        """Where one stored image lies."""
        return Place(self.shards[self.shard(row)].name, *self.samples.images(row)[member])

    def reader(self) -> ShardReader:
        """A reader of these shards, by their order in `shards`; nothing is opened yet."""
        return ShardReader([shard.location for shard in self.shards], [shard.bytes for shard in self.shards])

    def subset(
        self,
        *,
        domains: Sequence[str] | None = None,
        without_domains: Sequence[str] | None = None,
        labelled: bool | None = None,
    ) -> "ShardManifest":
        """The samples of some domains, or of all but some, with a label or without; vocabularies stay as they are.

        Raises:
            InvalidInput: an unknown domain, or nothing left.
        """
        keep = np.ones(len(self), dtype=bool)
        if domains is not None:
            keep &= np.isin(self.domain, self._domain_indices(domains))
        if without_domains is not None:
            keep &= ~np.isin(self.domain, self._domain_indices(without_domains))
        if labelled is not None:
            keep &= (self.label >= 0) == labelled
        if not keep.any():
            if labelled and (self.label < 0).all():
                raise InvalidInput(
                    f"none of the {len(self)} samples has a label, and labels are needed here; record them as `label` "
                    "in each sample's JSON, as a .cls member, or import the images from a folder per class"
                )
            asked = f"domains={domains}, without_domains={without_domains}, labelled={labelled}"
            raise InvalidInput(f"no sample of {len(self)} is left with {asked}; widen the filter")
        return self if keep.all() else self.take(np.flatnonzero(keep))

    def take(self, rows: NDArray[np.int64]) -> "ShardManifest":
        """The samples of these rows, in this order; vocabularies stay as they are."""
        widths = np.unique(self.samples.numbers("num_latents", rows))
        return replace(
            self,
            hash=hashlib.sha256(self.hash.encode() + rows.astype("<i8").tobytes()).hexdigest(),
            samples=self.samples.take(rows),
            num_latents=int(widths[0]) if len(widths) == 1 else 0,
        )

    def _domain_indices(self, names: Sequence[str]) -> list[int]:
        for name in names:
            if name not in self.domains:
                raise unknown("domain", name, self.domains)
        return [self.domains.index(name) for name in names]


def _located(folder: Path, location: str) -> str:
    return location if is_remote(location) else str(folder / location)
