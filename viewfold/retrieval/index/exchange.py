"""Embeddings in the folder layout that clip-retrieval writes and autofaiss reads, and back.

`img_emb/img_emb_0.npy` holds float16 `[row, dim]`, `metadata/metadata_0.parquet` one row for each; the numbers of
partitions have as many digits as the last one needs, so that names sort in the order of rows.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from viewfold.errors import InvalidInput
from viewfold.retrieval.features import INFO as FEATURES
from viewfold.retrieval.features import RECORD_SCHEMA, FeatureWriter, record_table
from viewfold.retrieval.features_stream import FeatureStream
from viewfold.retrieval.index.bundle import INFO, IndexBundle
from viewfold.retrieval.index.files import published

EMBEDDINGS, METADATA = "img_emb", "metadata"
_PARTITION_ROWS = 100_000
_BLOCK_ROWS = 4096


def export_embeddings(source: Path, out: Path, *, partition_rows: int = _PARTITION_ROWS) -> int:
    """Write the unit vectors and records of a bundle (without what was removed) or a feature set; how many there are.

    Metadata has the columns of `RECORD_SCHEMA`, and `image_path`, where the key stands as clip-retrieval expects it.

    Raises:
        InvalidInput: `source` is neither, or `out` holds other things.
    """
    records, blocks = _contents(source)
    digits = len(str(-(-records.num_rows // partition_rows) - 1))
    with published(out, marker=f"{EMBEDDINGS}/{EMBEDDINGS}_{0:0{digits}d}.npy") as aside:
        (aside / EMBEDDINGS).mkdir()
        (aside / METADATA).mkdir()
        for number, block in enumerate(_partitions(blocks, partition_rows)):
            name = f"{number:0{digits}d}"
            np.save(aside / EMBEDDINGS / f"{EMBEDDINGS}_{name}.npy", block, allow_pickle=False)
            part = records.slice(number * partition_rows, len(block))
            part = part.append_column("image_path", part.column("key"))
            pq.write_table(part, aside / METADATA / f"{METADATA}_{name}.parquet")
    return int(records.num_rows)


def import_embeddings(source: Path, out: Path, *, encoder_id: str) -> int:
    """Read such a folder as a feature set of the encoder `encoder_id`, which the folder does not name.

    The key is the column `key`, else `image_path`; label, domain, group and the other columns of `RECORD_SCHEMA` are
    taken under that name; a `phash` that is not 16 hex digits is another kind of hash, and left out.

    Raises:
        InvalidInput: files are missing, do not belong together, hold no keys, vectors of several lengths or a column
            that cannot be what its name says; names the file.
    """
    pairs = _pairs(source)
    digest = hashlib.sha256()
    with published(out, marker=FEATURES) as aside:
        for _, metadata in pairs:
            digest.update(metadata.read_bytes())
        manifest_hash = f"imported-{digest.hexdigest()[:16]}"
        with FeatureWriter(aside, encoder_id=encoder_id, manifest_hash=manifest_hash, part="all") as writer:
            rows = sum(_add(writer, *pair) for pair in pairs)
    return rows


def _add(writer: FeatureWriter, embeddings: Path, metadata: Path) -> int:
    try:
        vectors, table = np.load(embeddings, allow_pickle=False), pq.read_table(metadata)
    except (ValueError, pa.ArrowInvalid) as error:
        raise InvalidInput(f"{embeddings}: cannot read it or {metadata.name} ({error})") from None
    if vectors.ndim != 2 or len(vectors) != table.num_rows:
        raise InvalidInput(f"{embeddings}: {vectors.shape} numbers beside {table.num_rows} rows in {metadata}")
    key = "key" if "key" in table.column_names else "image_path"
    if key not in table.column_names or table.column(key).null_count:
        raise InvalidInput(f"{metadata}: needs a column `key` or `image_path` with a value in every row")
    columns: dict[str, Any] = {}
    for field in RECORD_SCHEMA:
        name = key if field.name == "key" else field.name
        columns[field.name] = _column(table, name, field.type, metadata)
    hashes = columns["phash"]
    columns["phash"] = pc.if_else(pc.match_substring_regex(hashes, "^[0-9a-f]{16}$"), hashes, None)
    writer.add(record_table(columns), vectors.astype(np.float32))
    return len(vectors)


def _column(table: pa.Table, name: str, kind: pa.DataType, metadata: Path) -> Any:
    if name not in table.column_names:
        return pa.nulls(table.num_rows, kind)
    try:
        return pc.cast(table.column(name), kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InvalidInput(
            f"{metadata}: column {name!r} holds {table.column(name).type}, which is no {kind} ({error}); rename it or "
            "take it out"
        ) from None


def _pairs(source: Path) -> list[tuple[Path, Path]]:
    found = sorted((source / EMBEDDINGS).glob(f"{EMBEDDINGS}_*.npy"))
    pairs = [
        (path, source / METADATA / f"{METADATA}_{path.stem.removeprefix(EMBEDDINGS + '_')}.parquet") for path in found
    ]
    missing = [str(path) for _, path in pairs if not path.is_file()]
    if not pairs or missing:
        what = missing[0] if missing else source / EMBEDDINGS / f"{EMBEDDINGS}_0.npy"
        raise InvalidInput(f"{what}: no such file; a folder of embeddings has both {EMBEDDINGS}/ and {METADATA}/")
    return pairs


@dataclass(frozen=True)
class _Shown:
    bundle: IndexBundle

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        for first, block in self.bundle.exact().blocks(_BLOCK_ROWS):
            yield block[self.bundle.alive[first : first + len(block)]]


def _contents(source: Path) -> tuple[pa.Table, Iterator[NDArray[np.float32]]]:
    if (source / INFO).is_file():
        bundle = IndexBundle.open(source)
        return bundle.records.select(RECORD_SCHEMA.names).filter(pa.array(bundle.alive)), _Shown(bundle).blocks()
    if (source / FEATURES).is_file():
        features = FeatureStream.open(source)
        return features.records, _unit_blocks(features)
    raise InvalidInput(f"{source}: neither an index bundle ({INFO}) nor a feature set ({FEATURES})")


def _unit_blocks(features: FeatureStream) -> Iterator[NDArray[np.float32]]:
    for block in features.blocks(_BLOCK_ROWS):
        lengths = np.linalg.norm(block, axis=1, keepdims=True)
        yield np.divide(block, lengths, where=lengths > 0, out=np.zeros_like(block))


def _partitions(blocks: Iterator[NDArray[np.float32]], rows: int) -> Iterator[NDArray[np.float16]]:
    waiting: list[NDArray[np.float16]] = []
    for block in blocks:
        rest = block.astype(np.float16)
        while len(rest):
            room = rows - sum(map(len, waiting))
            waiting.append(rest[:room])
            rest = rest[room:]
            if sum(map(len, waiting)) == rows:
                yield np.concatenate(waiting)
                waiting = []
    if waiting:
        yield np.concatenate(waiting)
