"""A backend in this process: FAISS and the encoder in threads, concurrent requests joined."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewfold.errors import InvalidInput
from viewfold.retrieval.selection.demos import DemoSet, Query
from viewfold.retrieval.selection.filters import FilterConfig
from viewfold.retrieval.selection.select_config import SelectConfig
from viewfold.retrieval.service import local_work
from viewfold.retrieval.service.backend import Embedded, Found, MapPoints, NotReady, Overloaded, PairInfo, pair_id
from viewfold.retrieval.service.background import in_daemon
from viewfold.retrieval.service.batching import Batcher
from viewfold.retrieval.service.config import BatchingConfig
from viewfold.retrieval.service.local_work import Opened
from viewfold.retrieval.service.metrics import RELOADS

__all__ = ["LocalBackend", "LocalPair", "Opened"]

_RELOADS_AT_A_TIME = 2
"""One loads, and one waits to load what has changed since that one began; a third would find nothing new."""
_RELOAD_AGAIN_S = 10


class LocalPair:
    """`ServedPair` in this process."""

    def __init__(self, opened: Opened, batching: BatchingConfig) -> None:
        """Raises what `local_work.checked` raises."""
        local_work.checked(opened)
        self._opened = opened
        self._bundle = opened.bundle
        self.info = _info(opened)
        # None of these knows this object: without a cycle the memory of a pair is free when its last request ends.
        self._embed = Batcher("embed", partial(_embedded, opened), batching)
        self._select = Batcher("select", partial(local_work.chosen, opened), batching)
        self._search = Batcher("search", partial(_searched, opened), batching)

    async def embed(self, images: Sequence[bytes]) -> list[Embedded | InvalidInput]:
        """See `ServedPair`."""
        return await self._embed(None, images)

    async def select(self, queries: Sequence[Query], config: SelectConfig) -> list[DemoSet]:
        """See `ServedPair`."""
        return await self._select(config, queries)

    async def search(self, vectors: NDArray[np.floating[Any]], k: int, filters: FilterConfig) -> list[list[Found]]:
        """See `ServedPair`."""
        return await self._search((k, filters), list(vectors))

    async def record(self, key: str) -> dict[str, Any] | None:
        """See `ServedPair`."""
        return await asyncio.to_thread(local_work.record, self._bundle, key)

    async def records(self, rows: Sequence[int]) -> list[dict[str, Any] | None]:
        """See `ServedPair`."""
        return await asyncio.to_thread(local_work.records, self._bundle, rows)

    async def thumbnail(self, key: str) -> bytes | None:
        """See `ServedPair`."""
        return await asyncio.to_thread(local_work.thumbnail, self._bundle, key)

    async def image(self, key: str) -> bytes | None:
        """See `ServedPair`."""
        return await asyncio.to_thread(local_work.image, self._opened, key)

    async def card(self) -> tuple[str, bytes] | None:
        """See `ServedPair`."""
        return self._opened.card

    async def explain(self, query: Query, config: SelectConfig, limit: int) -> list[dict[str, Any]]:
        """See `ServedPair`."""
        return await asyncio.to_thread(local_work.explained, self._opened, query, config, limit)

    async def map(self, limit: int) -> MapPoints:
        """See `ServedPair`."""
        return await asyncio.to_thread(local_work.points, self._bundle, limit)

    async def place(self, vector: NDArray[np.floating[Any]]) -> tuple[float, float] | None:
        """See `ServedPair`."""
        return local_work.place(self._opened, vector)


class LocalBackend:
    """`Backend` in this process. One pair answers; another one is opened beside it and takes its place."""

    def __init__(self, opener: Callable[[str | None], Opened], batching: BatchingConfig | None = None) -> None:
        """`opener` opens a source, and with None the one that the service was started for; it may block, and raises
        `InvalidInput` for what cannot be used. Nothing is opened before the first `load` or `reload`."""
        self._opener = opener
        self._batching = batching or BatchingConfig()
        self._pair: LocalPair | None = None
        self._loading = threading.Lock()
        self._room = threading.Semaphore(_RELOADS_AT_A_TIME)

    def load(self, source: str | None = None) -> PairInfo:
        """`reload` for those who may block: before the server starts, or in a thread that watches a registry."""
        with self._loading:  # of two at a time the later one wins, and never half of each
            try:
                pair = LocalPair(self._opener(source), self._batching)
            except Exception:
                RELOADS.labels("refused").inc()
                raise
            self._pair = pair
        RELOADS.labels("loaded").inc()
        return pair.info

    def pair(self) -> LocalPair:
        """See `Backend`."""
        pair = self._pair
        if pair is None:
            raise NotReady("no index is loaded yet; ask /readyz until it is")
        return pair

    async def reload(self, source: str | None) -> PairInfo:
        """See `Backend`; `Overloaded` while one loads and another waits for it."""
        if not self._room.acquire(blocking=False):
            raise Overloaded("an index is being loaded and another reload waits for it; come back", _RELOAD_AGAIN_S)

        def work() -> PairInfo:
            try:
                return self.load(source)
            finally:
                self._room.release()

        return await in_daemon(work, "reload")

    async def close(self) -> None:
        """See `Backend`."""
        self._pair = None


def _info(opened: Opened) -> PairInfo:
    bundle = opened.bundle
    domains = local_work.distinct(bundle, "domain")
    known = sorted(domain for domain in domains if domain is not None)
    return PairInfo(
        id=pair_id(opened.encode.id, bundle.info.id),
        encoder_id=opened.encode.id,
        bundle=bundle.info,
        source=opened.source,
        version=opened.version,
        loaded=datetime.now(UTC).isoformat(timespec="seconds"),
        base=opened.base_encode is not None,
        labels=sorted(label for label in local_work.distinct(bundle, "label") if label is not None),
        domains=known,
        domain_images=[domains[domain] for domain in known],
    )


def _embedded(opened: Opened, _: None, images: Sequence[bytes]) -> list[Embedded | InvalidInput]:
    return local_work.embed(opened, images)


def _searched(
    opened: Opened, asked: tuple[int, FilterConfig], vectors: Sequence[NDArray[np.floating[Any]]]
) -> list[list[Found]]:
    k, filters = asked
    return local_work.search(opened, filters, vectors, k=k)
