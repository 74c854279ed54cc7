"""Images to feature sets in this process: what a notebook indexes, and what it asks with."""

import io
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from viewfold.config import fingerprint
from viewfold.errors import InvalidInput
from viewfold.jobs.data import manifest_of
from viewfold.jobs.embed_records import embed_rows
from viewfold.jobs.file_encoder import FileEncoder
from viewfold.pipeline.progress import progress
from viewfold.retrieval import FeatureSet, Query, image_hashes, record_table
from viewfold.ssl.encoder import Encoder

Part = Literal["invariant", "equivariant", "all"]
ImageLike = str | Path | bytes | NDArray[np.uint8]
"""The path of an image file, the bytes of one, or uint8 pixels `[height, width, 3]`."""

_BATCH = 128  # images decoded at a time: 77 MB at 448 px


class _Seen(NamedTuple):
    vector: NDArray[np.floating[Any]]
    sha256: str
    phash: str


def embed(
    encoder: Encoder,
    images: Sequence[ImageLike] | NDArray[np.uint8],
    *,
    part: Part = "invariant",
    labels: Sequence[str | None] | None = None,
    domains: Sequence[str | None] | None = None,
    groups: Sequence[str | None] | None = None,
) -> FeatureSet:
    """One part of the features of images, with their hashes and what is told of them, in the order of the images.

    An image's key is its path, or else its number. Pixels are treated as a PNG file of them would be.

    >>> encoder = vf.load_encoder("runs/mine/pretrain/encoder")
    >>> features = vf.embed(encoder, ["PHOTO.png"], labels=["a ring of dots"])
    >>> features.keys, features.column("label"), features.vectors.shape
    (['PHOTO.png'], ['a ring of dots'], (1, 256))

    Raises:
        InvalidInput: no images, one that cannot be read, a column of another length, or an encoder without an id.
    """
    identity = _identity(encoder)
    if isinstance(images, str | bytes) or len(images) == 0:
        raise InvalidInput("embed: give a list of images, with at least one in it")
    keys = [str(image) if isinstance(image, str | Path) else f"image-{n:06d}" for n, image in enumerate(images)]
    told = _told({"label": labels, "domain": domains, "group": groups}, len(keys))
    seen = list(_seen(FileEncoder(encoder, part), keys, images))
    hashes = {"sha256": [one.sha256 for one in seen], "phash": [one.phash for one in seen]}
    nowhere = {name: [None] * len(keys) for name in ("shard", "offset", "size")}
    records = record_table({"key": keys, **told, **hashes, **nowhere})
    vectors = np.stack([one.vector for one in seen])
    return FeatureSet(identity, f"images-{fingerprint(records.to_pydict())}", part, records, vectors)


def embed_shards(encoder: Encoder, shards: str | Sequence[str], *, part: Part = "invariant") -> FeatureSet:
    """One part of the features of every stored image of `shards`, in memory, with the records that an index needs.

    `shards` are tar files, folders of them, globs, `demo:NAME`, or one folder with a manifest.

    >>> encoder = vf.load_encoder("runs/mine/pretrain/encoder")
    >>> features = vf.embed_shards(encoder, "shards", part="all")
    >>> len(features), sorted(set(features.column("label")))
    (24, ['class-0', 'class-1', 'class-2'])

    Raises:
        InvalidInput: shards that are not there or cannot be read, or an encoder without an id.
    """
    identity = _identity(encoder)
    with tempfile.TemporaryDirectory(prefix="viewfold-") as folder:
        manifest = manifest_of(shards, Path(folder) / "data")
        found = []
        with progress("embed", total=len(manifest)) as bar:
            for start in range(0, len(manifest), _BATCH):
                rows = range(start, min(start + _BATCH, len(manifest)))
                found.append(embed_rows({part: encoder}, manifest, rows, part))
                bar.advance(len(rows))
    records = pa.concat_tables([one.records for one in found])
    return FeatureSet(identity, manifest.hash, part, records, np.concatenate([one.vectors[part] for one in found]))


def queries(features: FeatureSet) -> list[Query]:
    """The images of a feature set as questions to an index that its encoder built, with all that guards compare.

    >>> encoder = vf.load_encoder("runs/mine/pretrain/encoder")
    >>> (query,) = vf.queries(vf.embed(encoder, ["PHOTO.png"], groups=["patient-7"]))
    >>> query.id, query.group
    ('PHOTO.png', 'patient-7')
    """
    names = ("key", "group", "sha256", "phash")
    columns = [features.column(name) for name in names]
    return [
        Query(id=key, vector=vector, group=group, sha256=sha256, phash=phash)
        for vector, key, group, sha256, phash in zip(features.vectors, *columns, strict=True)
    ]


def _identity(encoder: Encoder) -> str:
    if encoder.id is None:
        raise InvalidInput(
            "embed: this encoder has no id, and features are filed under one; save it (viewfold.ssl.save_encoder) and "
            "load it again, or call encoder.encode(...) for features alone"
        )
    return encoder.id


def _seen(ask: FileEncoder, keys: Sequence[str], images: Iterable[ImageLike]) -> Iterator[_Seen]:
    named = zip(keys, images, strict=True)
    while block := list(islice(named, _BATCH)):
        files = [_file(image, key) for key, image in block]
        for (key, _), data, found in zip(block, files, ask(files), strict=True):
            if isinstance(found, InvalidInput):
                raise InvalidInput(f"{key}: {found}")
            yield _Seen(found, *image_hashes(data))


def _file(image: ImageLike, key: str) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | Path):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise InvalidInput(f"{image}: cannot be read: {error.strerror or error}") from None
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise InvalidInput(
            f"{key}: {pixels.dtype} {list(pixels.shape)}, expected uint8 [height, width, 3]; convert it, or give the "
            "path of its file"
        )
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _told(columns: Mapping[str, Sequence[str | None] | None], num_images: int) -> dict[str, Sequence[str | None]]:
    for name, column in columns.items():
        if column is not None and len(column) != num_images:
            raise InvalidInput(f"{name}s: {len(column)} for {num_images} images; give one for each, None if not known")
    return {name: [None] * num_images if column is None else column for name, column in columns.items()}
