"""The records of a bundle as arrays by row, made once: what is read of them for a candidate is one look at a number."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from viewfold.errors import InvalidInput
from viewfold.retrieval.index.bundle import IndexBundle


@dataclass(frozen=True, eq=False)
class Names:
    """A column of few distinct values."""

    codes: NDArray[np.int32]
    """`[row]`: position in `names`, -1 for null."""
    names: list[str]
    """Ascending."""


@dataclass(frozen=True, eq=False)
class PoolColumns:
    """Columns of the records of one bundle."""

    where: str
    """The bundle, in words."""
    records: pa.Table
    allowed: NDArray[np.bool_] | None
    """`[row]`: what was not removed; None where nothing was."""
    base: NDArray[np.float32] | None
    """`[row, dim]`: unit vectors of the encoder from before adaptation, mapped; None if the bundle has none."""

    def __len__(self) -> int:
        return int(self.records.num_rows)

    @cached_property
    def label(self) -> Names:
        """The labels.

        Raises:
            InvalidInput: an image that may be shown has none.
        """
        names = _names(self.records.column("label"))
        bare = names.codes < 0
        missing = int(np.count_nonzero(bare if self.allowed is None else bare & self.allowed))
        if missing:
            raise InvalidInput(
                f"{self.where}: {missing} of {len(self)} images have no label and cannot be shown as "
                "demonstrations; build the index from labelled images alone"
            )
        return names

    @cached_property
    def domain(self) -> Names:
        """The domains."""
        return _names(self.records.column("domain"))

    @cached_property
    def keys(self) -> pa.Array:
        """The key of each row, in one piece."""
        return self.records.column("key").combine_chunks()

    @cached_property
    def phash(self) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """`[row]`: the perceptual hashes as numbers, and which rows have one.

        Raises:
            InvalidInput: an image's hash is no such hash.
        """
        column = self.records.column("phash").combine_chunks()
        return hash_numbers(column, lambda row: f"{self.where}: {self.keys[row].as_py()}")


def pool_columns(bundle: IndexBundle) -> PoolColumns:
    """The columns of an opened bundle, the same object as long as the bundle lives."""
    if bundle not in _OF_BUNDLE:
        base = None if bundle.info.base_encoder_id is None else bundle.base_vectors()
        _OF_BUNDLE[bundle] = PoolColumns(str(bundle.folder), bundle.records, bundle.allowed(), base)
    return _OF_BUNDLE[bundle]


def hash_numbers(texts: pa.StringArray, name: Callable[[int], str]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Hashes as numbers, 0 for null, and which of them are not null.

    Raises:
        InvalidInput: a text is anything but 16 lower-case hex digits; `name` says whose it is by its position.
    """
    wrong = pc.invert(pc.match_substring_regex(texts, "^[0-9a-f]{16}$"))
    place = pc.index(wrong, True).as_py()
    if place >= 0:
        raise InvalidInput(
            f"{name(place)}: {texts[place].as_py()!r} is no perceptual hash, which is 16 lower-case hex digits; take "
            "that of viewfold.retrieval.perceptual_hash, or give none"
        )
    known = pc.is_valid(texts).to_numpy(zero_copy_only=False)
    numbers = np.zeros(len(texts), dtype=np.uint64)
    numbers[known] = np.frombuffer(bytes.fromhex("".join(texts.drop_null().to_pylist())), dtype=">u8")
    return numbers, known


def _names(column: pa.ChunkedArray) -> Names:
    encoded = column.combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    order = sorted(range(len(names)), key=names.__getitem__)
    ranks = np.empty(len(names) + 1, dtype=np.int32)
    ranks[order] = np.arange(len(names))
    ranks[-1] = -1
    return Names(ranks[pc.fill_null(encoded.indices, -1).to_numpy()], [names[place] for place in order])


# Weak, so that columns end with their bundle; they hold none of it but what it read.
_OF_BUNDLE: "WeakKeyDictionary[IndexBundle, PoolColumns]" = WeakKeyDictionary()
