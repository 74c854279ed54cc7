"""Leakage guards: what one query must not be shown, because it would give the answer away."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from viewfold.config import Config
from viewfold.errors import ArtifactMismatch
from viewfold.retrieval.index.bundle import IndexBundle
from viewfold.retrieval.index.vector_index import unit_rows
from viewfold.retrieval.selection.columns import PoolColumns, hash_numbers
from viewfold.retrieval.selection.demos import Query

GUARDS = ("key", "sha256", "group", "phash", "duplicate")
"""In the order in which they are asked; a row that several hit belongs to the first. Number i + 1 stands for name i."""

_BITS = np.array([value.bit_count() for value in range(256)], dtype=np.uint8)


@dataclass(frozen=True, kw_only=True)
class GuardConfig(Config):
    """Guards beside those of key, file and group."""

    phash_distance: int | None = 4
    """Images whose perceptual hash differs in at most so many of its 64 bits are left out; None for no such guard."""
    duplicate_cosine: float | None = 0.999
    """Images with at least this cosine to the query are left out as copies; None for no such guard."""
    duplicate_space: Literal["base", "own"] = "base"
    """Where that cosine is taken. `base`: in the vectors of the encoder before adaptation, where the bundle and the
    query have them. `own`: in the index's own vectors, for an encoder that was not adapted; an adapted one brings a
    class together until all of it looks like copies."""

    def __post_init__(self) -> None:
        if self.phash_distance is not None and not 0 <= self.phash_distance <= 64:
            raise ValueError(f"phash_distance must lie in 0..64, got {self.phash_distance}")
        if self.duplicate_cosine is not None and not -1 <= self.duplicate_cosine <= 1:
            raise ValueError(f"duplicate_cosine must lie in -1..1, got {self.duplicate_cosine}")


@dataclass(frozen=True, eq=False)
class Guarded:
    """Rows of the pool that one query must not be shown by key, file or group."""

    rows: NDArray[np.int64]
    counts: dict[str, int]


@dataclass(frozen=True, eq=False)
class Guards:
    """What is forbidden to a batch of queries, ready to be held against candidates."""

    bundle: IndexBundle
    pool: PoolColumns
    config: GuardConfig
    values: dict[str, NDArray[np.int32]]
    """For key, sha256 and group, `[query]`: the code that its rows have."""
    phash: NDArray[np.uint64]
    has_phash: NDArray[np.bool_]
    base: NDArray[np.float32] | None
    """`[query, dim]` unit vectors, zero for a query without one; None where the guard cannot be asked."""
    has_base: NDArray[np.bool_]

    def screen(
        self, numbers: NDArray[np.int64], rows: NDArray[np.int64], scores: NDArray[np.float64]
    ) -> NDArray[np.int8]:
        """`[query, candidate]` for the queries `numbers`: 0 for what may be shown, else the number of the guard that
        hit first, or -1 where there is no candidate."""
        held = np.maximum(rows, 0)
        hit = np.where(rows < 0, np.int8(-1), np.int8(0))
        for name, by_value in self._lookups().items():
            same = by_value[held] == self.values[name][numbers, None]
            hit[same & (hit == 0)] = GUARDS.index(name) + 1
        if self.config.phash_distance is not None and self.has_phash[numbers].any():
            hashes, known = self.pool.phash
            differing = (hashes[held] ^ self.phash[numbers, None])[..., None].view(np.uint8)
            near = _BITS[differing].sum(axis=-1) <= self.config.phash_distance
            hit[near & known[held] & self.has_phash[numbers, None] & (hit == 0)] = 4
        if self.config.duplicate_cosine is not None:
            hit[self._copies(numbers, held, scores) & (hit == 0)] = 5
        return hit

    def asked(self, number: int) -> list[str]:
        """The guards that could be checked for one query; the first three always are."""
        own = self.config.duplicate_space == "own"
        phash = self.config.phash_distance is not None and self.has_phash[number]
        duplicate = self.config.duplicate_cosine is not None and (own or self.has_base[number])
        return [*GUARDS[:3], *(["phash"] if phash else []), *(["duplicate"] if duplicate else [])]

    def counts(self, allowed: NDArray[np.bool_] | None) -> NDArray[np.int64]:
        """`[query, 3]`: allowed rows of the whole pool that key, sha256 and group hit, each counted for the first."""
        key, sha256 = (self._pairs(name) for name in GUARDS[:2])
        sha256 = sha256[:, ~np.isin(_one(sha256, len(self.pool)), _one(key, len(self.pool)))]
        earlier = np.concatenate([key, sha256], axis=1)
        group = self._lookups()["group"]
        also = earlier[:, group[earlier[1]] == self.values["group"][earlier[0]]]
        pairs = (key, sha256, also)
        num = len(self.has_phash)
        hits = [np.bincount(q if allowed is None else q[allowed[r]], minlength=num) for q, r in pairs]
        hits[2] = self._group_sizes(allowed) - hits[2]
        return np.stack(hits, axis=1)

    def _lookups(self) -> dict[str, NDArray[np.int32]]:
        found = {"key": self.bundle.by_key, "sha256": self.bundle.by_sha256, "group": self.bundle.by_group}
        return {name: by_value.row_codes for name, by_value in found.items()}

    def _pairs(self, name: str) -> NDArray[np.int64]:
        """`[2, pair]`: query and row, for every row of the query's value."""
        by_value = self.bundle.by_key if name == "key" else self.bundle.by_sha256
        rows = [by_value.rows_of(code) for code in self.values[name].tolist()]
        queries = np.repeat(np.arange(len(rows)), [len(part) for part in rows])
        return np.stack([queries, np.concatenate([*rows, np.empty(0, dtype=np.int64)])])

    def _group_sizes(self, allowed: NDArray[np.bool_] | None) -> NDArray[np.int64]:
        codes, by_group = self.values["group"], self.bundle.by_group
        if allowed is None:
            return by_group.sizes(codes)
        return np.array([np.count_nonzero(allowed[by_group.rows_of(code)]) for code in codes.tolist()], dtype=np.int64)

    def _copies(
        self, numbers: NDArray[np.int64], rows: NDArray[np.int64], scores: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        assert self.config.duplicate_cosine is not None
        if self.config.duplicate_space == "own":
            return scores >= self.config.duplicate_cosine
        if self.base is None or self.pool.base is None:
            return np.zeros(rows.shape, dtype=bool)
        cosines = np.einsum("qd,qmd->qm", self.base[numbers], self.pool.base[rows])
        copies: NDArray[np.bool_] = (cosines >= self.config.duplicate_cosine) & self.has_base[numbers, None]
        return copies


def guards_of(
    bundle: IndexBundle, pool: PoolColumns, queries: Sequence[Query], config: GuardConfig, *, exclude_group: bool
) -> Guards:
    """Look up once what each query must not see.

    Raises:
        ArtifactMismatch: a base vector has another length than those of the bundle.
        InvalidInput: a base vector has no direction, or a perceptual hash is none.
    """
    groups = bundle.by_group.codes([query.group if exclude_group else None for query in queries])
    hashes = pa.array([query.phash for query in queries], pa.string())
    phash, has_phash = hash_numbers(hashes, lambda number: f"query {queries[number].id}")
    has_base = np.array([query.base_vector is not None and pool.base is not None for query in queries], dtype=bool)
    return Guards(
        bundle=bundle,
        pool=pool,
        config=config,
        values={
            "key": bundle.by_key.codes([query.id for query in queries]),
            "sha256": bundle.by_sha256.codes([query.sha256 for query in queries]),
            "group": groups,
        },
        phash=phash,
        has_phash=has_phash,
        base=_base_vectors(pool, queries) if has_base.any() else None,
        has_base=has_base,
    )


def guarded_rows(bundle: IndexBundle, queries: Sequence[Query], *, exclude_group: bool) -> list[Guarded]:
    """For each query the rows that would leak its answer: the image itself, the same bytes, the same group."""
    found = {
        "key": bundle.by_key.rows([query.id for query in queries]),
        "sha256": bundle.by_sha256.rows([query.sha256 for query in queries]),
        "group": bundle.by_group.rows([query.group if exclude_group else None for query in queries]),
    }
    return [_merged({reason: rows[number] for reason, rows in found.items()}) for number in range(len(queries))]


def _merged(found: dict[str, NDArray[np.int64]]) -> Guarded:
    merged, counts = np.empty(0, dtype=np.int64), {}
    for reason, rows in found.items():
        union = np.union1d(merged, rows)
        counts[reason] = len(union) - len(merged)
        merged = union
    return Guarded(merged, counts)


def _base_vectors(pool: PoolColumns, queries: Sequence[Query]) -> NDArray[np.float32]:
    assert pool.base is not None
    vectors = np.zeros((len(queries), pool.base.shape[1]), dtype=np.float32)
    for number, query in enumerate(queries):
        if query.base_vector is None:
            continue
        if len(query.base_vector) != vectors.shape[1]:
            raise ArtifactMismatch(
                f"{query.id}: a base vector of {len(query.base_vector)} numbers, and the bundle's have "
                f"{vectors.shape[1]}; embed the query with the bundle's own base encoder"
            )
        vectors[number] = query.base_vector
    known = np.array([query.base_vector is not None for query in queries], dtype=bool)
    names = [query.id for query in queries if query.base_vector is not None]
    vectors[known] = unit_rows(vectors[known], names)
    return vectors


def _one(pairs: NDArray[np.int64], num_rows: int) -> NDArray[np.int64]:
    """Each pair of a query and a row as one number."""
    numbers: NDArray[np.int64] = pairs[0] * num_rows + pairs[1]
    return numbers
