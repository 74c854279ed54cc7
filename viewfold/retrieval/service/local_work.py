"""What one pair answers, blocking: functions of the opened pair, called in threads."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from viewfold.errors import ArtifactMismatch, InvalidInput
from viewfold.keyed import generator
from viewfold.retrieval.index.bundle import AXES, IndexBundle
from viewfold.retrieval.selection.calibration import Calibration, calibration_of
from viewfold.retrieval.selection.columns import pool_columns
from viewfold.retrieval.selection.demos import DemoSet, Query
from viewfold.retrieval.selection.explaining import explain
from viewfold.retrieval.selection.filters import FilterConfig, eligible_rows
from viewfold.retrieval.selection.pipeline import select
from viewfold.retrieval.selection.select_config import SelectConfig
from viewfold.retrieval.service.backend import Embedded, Encode, Found, MapPoints
from viewfold.retrieval.service.hashing import Hashes, hashing


@dataclass(frozen=True, eq=False)
class Opened:
    """A pair as it was opened: a bundle with callables for what it needs of others."""

    bundle: IndexBundle
    encode: Encode
    """The encoder that built the bundle."""
    base_encode: Encode | None
    """The encoder of the bundle's base vectors, where it is there."""
    image_of: Callable[[str], bytes] | None
    """The image file of a key as it is stored, or its thumbnail; raises `InvalidInput`. None shows thumbnails."""
    source: str
    """What it was opened from."""
    version: str | None = None
    """Of the registered model."""

    @cached_property
    def axes(self) -> NDArray[np.float64]:
        """`[3, dim]`: the mean vector and the two directions of the map."""
        axes = np.load(self.bundle.folder / AXES, allow_pickle=False)
        return np.asarray(axes, dtype=np.float64)

    @cached_property
    def card(self) -> tuple[str, bytes] | None:
        """Name and content of the encoder's card, which the bundle's folder had when it was first asked for."""
        name = next((name for name in self.bundle.info.files if name.startswith("card.")), None)
        return None if name is None else (name, (self.bundle.folder / name).read_bytes())

    @cached_property
    def calibration(self) -> Calibration | None:
        """That which the bundle's folder had when it was first asked for."""
        return calibration_of(self.bundle)


def checked(opened: Opened) -> None:
    """Hold the parts of a pair against one another and carry a picture through them, which also readies all look-ups.

    Raises:
        ArtifactMismatch: an encoder is not the one that the bundle was built with.
        InvalidInput: the encoder makes nothing of a picture that can be searched for.
    """
    bundle, encode = opened.bundle, opened.encode
    _check_ids("encoder", opened, encode.id, bundle.info.encoder_id)
    if opened.base_encode is not None:
        _check_ids("base encoder", opened, opened.base_encode.id, bundle.info.base_encoder_id)
    (probe,) = embed(opened, [_picture(encode.size)])
    if isinstance(probe, InvalidInput):
        raise InvalidInput(f"{opened.source}: its encoder cannot read a plain PNG: {probe}")
    _ = opened.calibration, opened.card  # read now, since the folder may be changed in place
    query = Query("", probe.vector, sha256=probe.sha256, phash=probe.phash, base_vector=probe.base_vector)
    search(opened, FilterConfig(), [probe.vector], k=1)
    if labelled(bundle):
        chosen(opened, SelectConfig(k=1), [query])
    place(opened, probe.vector)  # reads the axes, which are another bundle's once the folder is changed


def labelled(bundle: IndexBundle) -> bool:
    """Whether every image has a label, so that all may be shown as demonstrations."""
    return None not in distinct(bundle, "label")


def distinct(bundle: IndexBundle, column: str) -> dict[str | None, int]:
    """Images by the value of a column, those that were removed left out; None among the values where one is missing."""
    values = bundle.records.column(column)
    if bundle.info.num_deleted:
        values = values.filter(bundle.alive)
    return {found["values"]: found["counts"] for found in values.value_counts().to_pylist()}


def embed(opened: Opened, images: Sequence[bytes]) -> list[Embedded | InvalidInput]:
    """One call of each encoder for all images, which are hashed meanwhile."""
    hashed = hashing(images)
    vectors = _guarded(opened.encode, images)
    bases = [None] * len(images) if opened.base_encode is None else _guarded(opened.base_encode, images)
    return [_embedded(*parts) for parts in zip(vectors, bases, hashed(), strict=True)]


def _embedded(
    vector: NDArray[np.floating[Any]] | InvalidInput,
    base: NDArray[np.floating[Any]] | InvalidInput | None,
    hashes: Hashes | InvalidInput,
) -> Embedded | InvalidInput:
    if isinstance(vector, InvalidInput):
        return vector
    if isinstance(base, InvalidInput):
        return base
    return hashes if isinstance(hashes, InvalidInput) else Embedded(vector, base, *hashes)


def search(
    opened: Opened, filters: FilterConfig, vectors: Sequence[NDArray[np.floating[Any]]], *, k: int
) -> list[list[Found]]:
    """One search for all vectors."""
    bundle = opened.bundle
    pool = pool_columns(bundle)
    hits = bundle.search(np.stack(vectors), k, allowed=eligible_rows(pool, filters).mask)
    kept = hits.rows >= 0
    rows = hits.rows[kept]
    columns = [bundle.records.column(name).take(rows).to_pylist() for name in ("key", "label", "domain", "group")]
    scores = hits.scores[kept].tolist()
    found = [
        Found(key, row, label, domain, group, score)
        for key, label, domain, group, row, score in zip(*columns, rows.tolist(), scores, strict=True)
    ]
    ends = np.cumsum(kept.sum(axis=1)).tolist()
    return [found[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def row_of(bundle: IndexBundle, key: str) -> int | None:
    """The row of an image that was not removed."""
    (rows,) = bundle.by_key.rows([key])
    if not rows.size or not bundle.alive[rows[-1]]:
        return None
    return int(rows[-1])  # an image that was removed and came back stands twice


def record(bundle: IndexBundle, key: str) -> dict[str, Any] | None:
    """What is known of an image; None if there is no such image, or no longer."""
    row = row_of(bundle, key)
    return None if row is None else records(bundle, [row])[0]


def records(bundle: IndexBundle, rows: Sequence[int]) -> list[dict[str, Any] | None]:
    """What is known of the images in these rows, read at once; None for a row that is not there, or no longer."""
    there = [0 <= row < len(bundle) and bool(bundle.alive[row]) for row in rows]
    names = [name for name in bundle.records.column_names if not name.startswith("thumb_")]
    wanted = [row for row, yes in zip(rows, there, strict=True) if yes]
    found = iter(bundle.records.select(names).take(np.array(wanted, dtype=np.int64)).to_pylist())
    return [{"row": row, **next(found)} if yes else None for row, yes in zip(rows, there, strict=True)]


def thumbnail(bundle: IndexBundle, key: str) -> bytes | None:
    """The JPEG file of an image's thumbnail."""
    return None if row_of(bundle, key) is None else bundle.thumbnail(key)


def image(opened: Opened, key: str) -> bytes | None:
    """The image file as it is stored, else its thumbnail."""
    if opened.image_of is None or row_of(opened.bundle, key) is None:
        return thumbnail(opened.bundle, key)
    try:
        return opened.image_of(key)
    except InvalidInput:  # neither shard nor thumbnail; said by None
        return None


def explained(opened: Opened, query: Query, config: SelectConfig, limit: int) -> list[dict[str, Any]]:
    """`retrieval.explain` of what `chosen` gives, with what the records say of each image."""
    bundle = opened.bundle
    found = explain(bundle, query, config, calibration=opened.calibration)[:limit]
    rows = np.array([rows[-1] for rows in bundle.by_key.rows([key for key, _, _ in found])], dtype=np.int64)
    scores = bundle.index.similarity(query.vector[None], rows[None])[0].tolist()
    labels, domains = (bundle.records.column(name).take(rows).to_pylist() for name in ("label", "domain"))
    return [
        {"key": key, "stage": stage, "reason": reason, "label": label, "domain": domain, "score": score}
        for (key, stage, reason), label, domain, score in zip(found, labels, domains, scores, strict=True)
    ]


def points(bundle: IndexBundle, limit: int) -> MapPoints:
    """Images on the map, in order of their rows."""
    rows = np.flatnonzero(bundle.alive)
    total = len(rows)
    if total > limit:
        rows = np.sort(generator("map", bundle.info.id).choice(rows, limit, replace=False))
    names = ("key", "map_x", "map_y", "label", "domain")
    key, x, y, label, domain = (bundle.records.column(name).take(rows).to_pylist() for name in names)
    return MapPoints(key, x, y, label, domain, total)


def chosen(opened: Opened, config: SelectConfig, queries: Sequence[Query]) -> list[DemoSet]:
    """`retrieval.select` with the calibration that the bundle had when it was opened, whatever its folder holds now."""
    return select(opened.bundle, queries, config, calibration=opened.calibration)


def place(opened: Opened, vector: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Where on the map a vector lies."""
    unit = np.asarray(vector, dtype=np.float64)
    x, y = opened.axes[1:] @ (unit / np.linalg.norm(unit) - opened.axes[0])
    return float(x), float(y)


def _guarded(encode: Encode, images: Sequence[bytes]) -> list[NDArray[np.floating[Any]] | InvalidInput]:
    """The vectors, those that point nowhere refused by their image."""
    vectors = encode(images)
    for place, vector in enumerate(vectors):
        if not isinstance(vector, InvalidInput) and not (np.isfinite(vector).all() and vector.any()):
            vectors[place] = InvalidInput("the encoder sees nothing in this image: its vector is zero or not finite")
    return vectors


def _check_ids(kind: str, opened: Opened, given: str, wanted: str | None) -> None:
    if given != wanted:
        raise ArtifactMismatch(
            f"{opened.source}: the index in {opened.bundle.folder} was built with {kind} {wanted}, and {kind} {given} "
            "is beside it; serve the index with its own encoder"
        )


def _picture(size: int) -> bytes:
    """A PNG with something to see in it."""
    ramp = np.linspace(0, 255, 3 * size * size).reshape(size, size, 3).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "PNG")
    return buffer.getvalue()
