"""What the application asks of whatever answers it: a pair of encoder and bundle, and how one takes another's place.

`local.py` answers in this process; other backends keep to the same protocols. Nothing here knows of HTTP.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from viewfold.config import fingerprint
from viewfold.errors import InvalidInput, ViewfoldError
from viewfold.retrieval.index.bundle import BundleInfo
from viewfold.retrieval.selection.demos import DemoSet, Query
from viewfold.retrieval.selection.filters import FilterConfig
from viewfold.retrieval.selection.select_config import SelectConfig


class NotReady(ViewfoldError):
    """Nothing is loaded that could answer, not yet or not any more."""


class Overloaded(ViewfoldError):
    """There is more to do than may wait; the caller should come back in `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        """`message` says what is full."""
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type, tuple[str, int]]:
        """It crosses process borders, where the default would lose the seconds."""
        return type(self), (str(self), self.retry_after_s)


@dataclass(frozen=True)
class PairInfo:
    """Which encoder and bundle answer, and what may be asked of them."""

    id: str
    """Names the pair: `pair_id` of the two ids."""
    encoder_id: str
    bundle: BundleInfo
    source: str
    """What it was opened from."""
    version: str | None
    """Of the registered model; None where it was not opened from a registry."""
    loaded: str
    """UTC, ISO 8601."""
    base: bool
    """Whether the encoder from before adaptation is there, for the guard against near duplicates."""
    labels: list[str]
    """Ascending."""
    domains: list[str]
    """Ascending."""
    domain_images: list[int]
    """Images of each of `domains`; those that are left have none."""


def pair_id(encoder_id: str, bundle_id: str) -> str:
    """16 hex digits for an encoder and a bundle together."""
    return fingerprint("pair", encoder_id, bundle_id)


@dataclass(frozen=True, eq=False)
class Embedded:
    """One image as the encoder sees it."""

    vector: NDArray[np.floating[Any]]
    """`[dim]`, not normalised."""
    base_vector: NDArray[np.floating[Any]] | None
    """`[base dim]`; None without a base encoder."""
    sha256: str
    phash: str


@dataclass(frozen=True)
class Found:
    """One image that a search found."""

    key: str
    row: int
    label: str | None
    domain: str | None
    group: str | None
    score: float
    """Cosine, rounded to 1e-6."""


@dataclass(frozen=True)
class MapPoints:
    """Images on the two-dimensional map, as columns of equal length."""

    key: list[str]
    x: list[float]
    y: list[float]
    label: list[str | None]
    domain: list[str | None]
    total: int
    """Images of the index, of which these are all or a sample."""


class Encode(Protocol):
    """An encoder: image files to vectors."""

    @property
    def id(self) -> str:
        """Names the weights and the preprocessing; equal ids give equal vectors."""

    @property
    def size(self) -> int:
        """Pixels on each side of what the encoder is shown."""

    def __call__(self, images: Sequence[bytes]) -> list[NDArray[np.floating[Any]] | InvalidInput]:
        """For each image file its vector `[dim]`, or why it cannot be read; one bad image does not hurt the others."""


class ServedPair(Protocol):
    """An encoder with the bundle that it built. It answers alike until its last request ends, whatever is loaded since.

    Queries that cannot be used raise `InvalidInput`; a backend that has too much to do raises `Overloaded`.
    """

    @property
    def info(self) -> PairInfo:
        """Which pair it is."""

    async def embed(self, images: Sequence[bytes]) -> list[Embedded | InvalidInput]:
        """For each image file what the encoder makes of it, or why it cannot be read."""

    async def select(self, queries: Sequence[Query], config: SelectConfig) -> list[DemoSet]:
        """`retrieval.select` on the bundle."""

    async def search(self, vectors: NDArray[np.floating[Any]], k: int, filters: FilterConfig) -> list[list[Found]]:
        """For each of the `[query, dim]` vectors the `k` nearest images that `filters` leave, best first."""

    async def record(self, key: str) -> dict[str, Any] | None:
        """The record of an image; None if there is no such image, or no longer."""

    async def records(self, rows: Sequence[int]) -> list[dict[str, Any] | None]:
        """The records in these rows; None for a row that is not there, or no longer."""

    async def thumbnail(self, key: str) -> bytes | None:
        """The JPEG file of an image's thumbnail; None if there is none."""

    async def image(self, key: str) -> bytes | None:
        """The image file as it is stored, or its thumbnail where the shards are out of reach; None without either."""

    async def card(self) -> tuple[str, bytes] | None:
        """Name and content of the file with the encoder's card; None for an index without one."""

    async def explain(self, query: Query, config: SelectConfig, limit: int) -> list[dict[str, Any]]:
        """`retrieval.explain` for the first `limit` images: `key`, `stage`, `reason`, `score`, `label`, `domain`."""

    async def map(self, limit: int) -> MapPoints:
        """Images on the map; of more than `limit`, a sample that is the same each time."""

    async def place(self, vector: NDArray[np.floating[Any]]) -> tuple[float, float] | None:
        """Where on the map a query's vector lies; None for a bundle that cannot place one."""


class Backend(Protocol):
    """Holds the pair that answers, and exchanges it."""

    def pair(self) -> ServedPair:
        """What new requests use. A request takes it once and keeps it to its end.

        Raises:
            NotReady: none is loaded.
        """

    async def reload(self, source: str | None) -> PairInfo:
        """Open and check a pair beside the one that answers, then put it in its place; None opens the first source.

        Raises:
            InvalidInput: it cannot be used (`ArtifactMismatch`: its parts do not belong together); the old one stays.
        """

    async def close(self) -> None:
        """Let go of everything; called once, when no request is left."""
