"""Folders of image files to shards, byte for byte where shards hold the format."""

import csv as csv_format
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from viewfold.errors import InvalidInput
from viewfold.folders import whole_folder
from viewfold.pipeline.decode import storable
from viewfold.pipeline.indexer import index_shards
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.packing import refuse_used, shard_writer
from viewfold.pipeline.stage import write_whole

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
COLUMNS = {"image": "image", "label": "label", "domain": "domain", "group": "group"}
"""What is read from a CSV file, and the header it is looked for under unless another is given."""
SKIPPED_NAME = "skipped.jsonl"

_UNSAFE = re.compile(r"[^\w/-]+")  # a dot would end the key


@dataclass(frozen=True)
class SourceImage:
    """One image file to import."""

    image: str
    """Path below the imported folder, with slashes."""
    label: str | None = None
    domain: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class _Refused:
    image: str
    reason: str


def import_folder(
    folder: Path,
    out: Path,
    *,
    csv: Path | None = None,
    columns: Mapping[str, str] | None = None,
    shard_bytes: int = 256_000_000,
    skip_bad: bool = False,
    progress: Callable[[int], object] = lambda num_images: None,
) -> ShardManifest:
    """Pack the images below `folder` into shards `out/images-000000.tar ...`, index them, and return the manifest.

    Without `csv` an image's label is the first folder below `folder` on its path. With it, one image for each line,
    named relative to `folder`; `columns` maps `image`, `label`, `domain`, `group` to other headers than these. The same
    input gives the same bytes. `out` appears whole or not at all; images left out are listed in `out/skipped.jsonl`.

    Raises:
        InvalidInput: nothing to import, `out` is in use, a CSV that cannot be read, or, unless `skip_bad`, images that
            cannot be read: the first by name, and how many.
    """
    if not folder.is_dir():
        raise InvalidInput(f"{folder}: no such folder")
    refuse_used(out)
    sources = _from_folders(folder) if csv is None else _from_csv(csv, columns or {})
    if columns and csv is None:
        raise InvalidInput("columns are those of a CSV file, and none is given")
    if not sources:
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise InvalidInput(f"{csv or folder}: no image to import; files with these endings are taken: {kinds}")
    with whole_folder(out.absolute()) as part:
        refused = _pack(folder, sources, part, shard_bytes=shard_bytes, progress=progress)
        _report(refused, len(sources), part, skip_bad=skip_bad)
        index_shards(sorted(part.glob("*.tar")), part)
    return ShardManifest.load(out)


def _from_folders(folder: Path) -> list[SourceImage]:
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return [
        SourceImage(path.as_posix(), label=_composed(path.parts[0]) if len(path.parts) > 1 else None)
        for path in paths
        if not any(part.startswith(".") for part in path.parts) and (folder / path).is_file()
    ]


def _from_csv(path: Path, columns: Mapping[str, str]) -> list[SourceImage]:
    strange = sorted(set(columns) - set(COLUMNS))
    if strange:
        raise InvalidInput(f"columns: {strange[0]!r} is not read from a CSV; known: {', '.join(COLUMNS)}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv_format.DictReader(file)
            headers = table.fieldnames or []
            for name in ("image", *columns):
                wanted = columns.get(name, COLUMNS[name])
                if wanted not in headers:
                    raise InvalidInput(f"{path}: no column {wanted!r} for {name}; there are {', '.join(headers)}")
            return [_source(line, columns, path, table.line_num) for line in table]
    except FileNotFoundError:
        raise InvalidInput(f"{path}: no such file") from None
    except (UnicodeDecodeError, csv_format.Error) as error:
        raise InvalidInput(f"{path}: not a CSV file in UTF-8: {error}") from None


def _source(line: Mapping[str, str | None], columns: Mapping[str, str], path: Path, number: int) -> SourceImage:
    fields = {name: line.get(columns.get(name, header)) or None for name, header in COLUMNS.items()}
    image = fields.pop("image")
    if image is None:
        raise InvalidInput(f"{path}: line {number} names no image")
    return SourceImage(Path(image).as_posix(), **{name: text and _composed(text) for name, text in fields.items()})


def _composed(text: str) -> str:
    """One spelling of each name: an accent apart from its letter, as macOS writes paths, would make a second class."""
    return unicodedata.normalize("NFC", text)


def _pack(
    folder: Path, sources: Sequence[SourceImage], out: Path, *, shard_bytes: int, progress: Callable[[int], object]
) -> list[_Refused]:
    refused = []
    with shard_writer(out, "images", shard_bytes=shard_bytes) as writer:
        for source, key in zip(sources, _keys(sources), strict=True):
            try:
                extension, data = storable((folder / source.image).read_bytes())
            except OSError as error:
                refused.append(_Refused(source.image, str(error.strerror)))
            except InvalidInput as error:
                refused.append(_Refused(source.image, str(error)))
            else:
                writer.write({"__key__": key, extension: data, "json": _json(source)})
            progress(1)
    return refused


def _json(source: SourceImage) -> bytes:
    """The sample's JSON: where it came from, and what is known of it."""
    fields: dict[str, Any] = {name: value for name, value in asdict(source).items() if value is not None}
    fields["source"] = fields.pop("image")
    return json.dumps(fields, ensure_ascii=False).encode()


def _keys(sources: Sequence[SourceImage]) -> Iterator[str]:
    """A key for each image: its path without the ending, made safe, with a number where two would be the same."""
    taken: set[str] = set()
    for source in sources:
        stem = _UNSAFE.sub("-", str(Path(source.image).with_suffix("")).lstrip("/"))
        key, number = stem, 1
        while key in taken:
            number += 1
            key = f"{stem}-{number}"
        taken.add(key)
        yield key


def _report(refused: Sequence[_Refused], num_sources: int, out: Path, *, skip_bad: bool) -> None:
    if not refused:
        return
    first = f"{refused[0].image}: {refused[0].reason}"
    if not skip_bad:
        raise InvalidInput(
            f"{first} ({len(refused)} of {num_sources} images cannot be read; --skip-bad leaves them out)"
        )
    if len(refused) == num_sources:
        raise InvalidInput(f"{first} (none of {num_sources} images can be read)")
    lines = "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in refused)
    write_whole(out / SKIPPED_NAME, lambda file: file.write(lines.encode()) and None)
