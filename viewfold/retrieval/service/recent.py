"""The latest queries of each pair, by how near their nearest image is and in which domain: what drift is told from."""

import time
from bisect import bisect_right
from collections import Counter, OrderedDict, deque
from datetime import UTC, datetime

import numpy as np

from viewfold.retrieval.drift import Drift, compared, empty_like
from viewfold.retrieval.index.bundle import ScoreHistogram
from viewfold.retrieval.selection.demos import DemoSet
from viewfold.retrieval.selection.filters import FilterConfig
from viewfold.retrieval.selection.select_config import SelectConfig
from viewfold.retrieval.service.backend import PairInfo

LATEST = 2000
"""Queries that are compared. The reference is a sample of 200, so more would sharpen little and keep old days in."""
_PAIRS = 4
"""A pair that comes back after a roll-back finds what was asked of it before; older ones are forgotten."""
_PLAIN = FilterConfig()


class RecentQueries:
    """What was asked of this process, for each pair that answered. Used from the event loop alone, without a lock."""

    def __init__(self) -> None:
        self._pairs: OrderedDict[str, _OfPair] = OrderedDict()

    def add(self, info: PairInfo, demos: DemoSet, config: SelectConfig) -> None:
        """Count one answer of the pair `info`; those that say nothing of how near the index is are left out."""
        asked = self._of(info)
        nearest = demos.stats.get("nearest")
        if nearest is None or config.filters != _PLAIN:  # a part of the index is further away than all of it
            asked.left_out += 1
            return
        asked.latest.append((time.time(), asked.bin_of(nearest), _domain(demos)))

    def drift(self, info: PairInfo) -> Drift:
        """What was asked of the pair `info`, beside its index."""
        asked = self._of(info)
        counts = Counter(place for _, place, _ in asked.latest)
        since = datetime.fromtimestamp(asked.latest[0][0], UTC) if asked.latest else None
        reference = info.bundle.score_histogram
        without = info.bundle.n - info.bundle.num_deleted - sum(info.domain_images)
        return compared(
            info.id,
            since=None if since is None else since.isoformat(timespec="seconds"),
            left_out=asked.left_out,
            cosines=empty_like(reference, [counts[place] for place in range(len(reference.counts))]),
            reference=reference,
            domains=dict(sorted(Counter(name for _, _, name in asked.latest if name is not None).items())),
            reference_domains={
                **({"": without} if without else {}),
                **dict(zip(info.domains, info.domain_images, strict=True)),
            },
        )

    def _of(self, info: PairInfo) -> "_OfPair":
        if info.id not in self._pairs:
            self._pairs[info.id] = _OfPair(info.bundle.score_histogram)
        self._pairs.move_to_end(info.id)
        while len(self._pairs) > _PAIRS:
            self._pairs.popitem(last=False)
        return self._pairs[info.id]


class _OfPair:
    """The latest queries of one pair: when, in which bin, and the nearest image's domain (None: nothing was shown)."""

    def __init__(self, bins: ScoreHistogram) -> None:
        self.edges: list[float] = np.linspace(bins.low, bins.high, len(bins.counts) + 1).tolist()
        self.latest: deque[tuple[float, int, str | None]] = deque(maxlen=LATEST)
        self.left_out = 0

    def bin_of(self, cosine: float) -> int:
        """As `numpy.histogram` has it: each bin holds its lower edge, the last one its upper too."""
        return min(max(bisect_right(self.edges, cosine) - 1, 0), len(self.edges) - 2)


def _domain(demos: DemoSet) -> str | None:
    """Of the nearest image that was shown; "" where it has none. What a fallback drew is not near."""
    if demos.fallback is not None or not demos.items:
        return None
    return min(demos.items, key=lambda item: item.rank).domain or ""
