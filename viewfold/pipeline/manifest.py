"""What a set of shards holds: one small JSON and a table with a row for each sample, made once and loaded in a moment.

The manifest's hash names the data set wherever it lies: it covers the shards' names, sizes and sha256, and the
sample table.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from viewfold.config import unknown
from viewfold.errors import InvalidInput, ShardError
from viewfold.pipeline.about import About, parse_about
from viewfold.pipeline.shards import ShardReader, ShardSample, scan_shard
from viewfold.pipeline.stage import write_whole
from viewfold.pipeline.table import SCHEMA, SampleTable

FORMAT = "viewfold-manifest-1"
MANIFEST_NAME, TABLE_NAME = "manifest.json", "samples.parquet"

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Shard:
    """One tar of the set."""

    name: str
    """File name without `.tar`."""
    path: Path
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
    domains: tuple[str, ...]
    groups: tuple[str, ...]
    label: NDArray[np.int64]
    """`[sample]` index into `labels`, -1 for none; `domain` and `group` likewise."""
    domain: NDArray[np.int64]
    group: NDArray[np.int64]
    samples: SampleTable

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
            table = (folder / TABLE_NAME).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise InvalidInput(
                f"{folder}: no {MANIFEST_NAME} and {TABLE_NAME}; make them with `viewfold data index`"
            ) from None
        except ValueError as error:
            raise InvalidInput(f"{file}: not a manifest ({error}); make it again") from None
        if not isinstance(fields, dict) or fields.get("format") != FORMAT:
            raise InvalidInput(f"{file}: not a manifest of format {FORMAT!r}; make it again with `viewfold data index`")
        if hashlib.sha256(table).hexdigest() != fields["table_sha256"]:
            raise InvalidInput(
                f"{folder}: {TABLE_NAME} is not the table {MANIFEST_NAME} was written with; make both again"
            )
        shards = [Shard(**{**entry, "path": folder / entry["path"]}) for entry in fields["shards"]]
        return _assemble(shards, SampleTable.read(table), fields["hash"])

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.samples)

    @property
    def num_latents(self) -> int:
        """Recorded parameters of each stored image; 0 unless every sample has them, and equally many."""
        widths = np.unique(self.samples.num_latents)
        return int(widths[0]) if len(widths) == 1 else 0

    def key(self, row: int) -> str:
        """Identity of a sample: shard name, a slash, the key within the shard."""
        return f"{self.shards[self.samples.shard[row]].name}/{self.samples.key(row)}"

    def image_key(self, row: int, member: int) -> str:
        """Identity of one stored image: that of its sample, and, of several images, a dot and two digits."""
        return self.key(row) if self.num_images(row) == 1 else f"{self.key(row)}.{member:02d}"

    def num_images(self, row: int) -> int:
        """Stored images of a sample."""
        return self.samples.num_images(row)

    def place(self, row: int, member: int) -> Place:
        """Where one stored image lies."""
        shard = self.shards[self.samples.shard[row]].name
        return Place(shard, *self.samples.images(row)[member])

    def reader(self) -> ShardReader:
        """A reader of these shards, by their order in `shards`; nothing is opened yet."""
        return ShardReader([shard.path for shard in self.shards], [shard.bytes for shard in self.shards])

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
        return self if keep.all() else self._select(np.flatnonzero(keep))

    def _select(self, rows: NDArray[np.int64]) -> "ShardManifest":
        return replace(
            self,
            hash=hashlib.sha256(self.hash.encode() + rows.astype("<i8").tobytes()).hexdigest(),
            label=self.label[rows],
            domain=self.domain[rows],
            group=self.group[rows],
            samples=self.samples.take(rows),
        )

    def _domain_indices(self, names: Sequence[str]) -> list[int]:
        for name in names:
            if name not in self.domains:
                raise unknown("domain", name, self.domains)
        return [self.domains.index(name) for name in names]


def index_shards(
    paths: Sequence[Path], out: Path, *, progress: Callable[[int], object] = lambda num_shards: None
) -> ShardManifest:
    """Read every shard once and write `manifest.json` and `samples.parquet` into the folder `out`, whole or not at all.

    Paths are kept relative to `out` where the shards lie in it or below it, so such a folder can be moved. `progress`
    is called with 1 after each shard.

    Raises:
        ShardError: a shard or one of its samples cannot be used.
        InvalidInput: no shard, two of one name, or no sample in any.
    """
    paths = [path.absolute() for path in paths]
    _refuse_same_names(paths)
    shards, columns = [], []
    for index, path in enumerate(paths):
        samples = scan_shard(path)
        columns.append(_columns(path, index, samples))
        shards.append(Shard(path.stem, path, len(samples), path.stat().st_size, file_sha256(path)))
        progress(1)
    table = SampleTable(pa.concat_tables(columns))
    if not len(table):
        raise InvalidInput(f"no sample in {len(paths)} shards, the first of them {paths[0]}")
    manifest = _assemble(shards, table, _content_hash(shards, table))
    _write(manifest, out)
    return manifest


def _assemble(shards: Sequence[Shard], samples: SampleTable, content_hash: str) -> ShardManifest:
    (labels, label), (domains, domain), (groups, group) = map(samples.names, ("label", "domain", "group"))
    return ShardManifest(content_hash, tuple(shards), labels, domains, groups, label, domain, group, samples)


def _write(manifest: ShardManifest, out: Path) -> None:
    # The table goes first: a run killed between the two leaves a manifest that refuses it, never one that lies.
    table = manifest.samples.to_parquet()
    folder = out.absolute()
    fields: dict[str, Any] = {
        "format": FORMAT,
        "hash": manifest.hash,
        "num_samples": len(manifest),
        "num_images": int(manifest.samples.image_counts().sum()),
        "table_sha256": hashlib.sha256(table).hexdigest(),
        "shards": [{**asdict(shard), "path": _path_from(folder, shard.path)} for shard in manifest.shards],
    }
    write_whole(out / TABLE_NAME, lambda file: _put(file, table))
    write_whole(out / MANIFEST_NAME, lambda file: _put(file, (json.dumps(fields, indent=1) + "\n").encode()))


def _put(file: BinaryIO, data: bytes) -> None:
    file.write(data)


def _path_from(folder: Path, path: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _content_hash(shards: Sequence[Shard], samples: SampleTable) -> str:
    facts = [[shard.name, shard.samples, shard.bytes, shard.sha256] for shard in shards]
    return hashlib.sha256(json.dumps([FORMAT, facts, samples.digest()]).encode()).hexdigest()


def _refuse_same_names(paths: Sequence[Path]) -> None:
    first: dict[str, Path] = {}
    for path in paths:
        if (other := first.setdefault(path.stem, path)) is not path:
            raise InvalidInput(
                f"{other} and {path} have one name, which would give two samples one identity; rename one"
            )
    if not paths:
        raise InvalidInput("no shard to index; give files, folders or patterns such as data-{000000..000005}.tar")


def _columns(path: Path, index: int, samples: Sequence[ShardSample]) -> pa.Table:
    """One shard's rows, in its order."""
    rows = []
    with ShardReader([path], [path.stat().st_size]) as reader:
        for sample in samples:
            images = sample.images(path.name)
            about = _about(reader, path.name, sample, num_images=len(images))
            offset, size = sample.members.get("json", (0, 0))
            rows.append(
                {
                    "shard": index,
                    "key": sample.key,
                    "label": about.label,
                    "domain": about.domain,
                    "group": about.group,
                    "image_offset": [image.offset for image in images],
                    "image_size": [image.size for image in images],
                    "about_offset": offset,
                    "about_size": size,
                    "num_latents": 0 if about.latents is None else about.latents.shape[1],
                }
            )
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _about(reader: ShardReader, shard: str, sample: ShardSample, *, num_images: int) -> About:
    """What the JSON says; its label, where it has none, from a `.cls` or `.txt` member."""
    try:
        json_member = sample.members.get("json")
        about = parse_about(reader.read(0, json_member), num_images=num_images) if json_member else About()
        label_member = sample.members.get("cls") or sample.members.get("txt")
        if about.label is None and label_member:
            label = reader.read(0, label_member).decode("utf-8").strip()
            about = replace(about, label=label or None)
    except UnicodeDecodeError:
        raise ShardError(shard, "its label is not UTF-8 text", sample.key) from None
    except InvalidInput as error:
        raise ShardError(shard, str(error), sample.key) from None
    return about


def file_sha256(path: Path) -> str:
    """64 hex digits, read in pieces."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sha.update(chunk)
    return sha.hexdigest()
