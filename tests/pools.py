"""Small feature sets with everything filled in, for tests of what happens after embedding."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewfold.retrieval import FeatureSet, record_table


def pool(vectors: NDArray[np.float32], *, encoder_id: str = "encoder-a", **columns: Sequence[Any]) -> FeatureSet:
    """Features of images `0000`, `0001`, ... of one manifest; `columns` replaces any column of the records."""
    keys = [f"{row:04d}" for row in range(len(vectors))]
    filled: dict[str, Sequence[Any]] = {
        "key": keys,
        "label": ["thing"] * len(keys),
        "domain": ["here"] * len(keys),
        "group": [None] * len(keys),
        "sha256": [hashlib.sha256(key.encode()).hexdigest() for key in keys],
        "phash": ["0" * 16] * len(keys),
        "shard": ["images-000000"] * len(keys),
        "offset": list(range(0, 1024 * len(keys), 1024)),
        "size": [500] * len(keys),
    }
    return FeatureSet(encoder_id, "manifest-1", "invariant", record_table(filled | columns), vectors)


def on_circle(degrees: Sequence[float]) -> NDArray[np.float32]:
    """`[n, 2]` unit vectors at these angles."""
    angles = np.radians(np.array(degrees, dtype=np.float64))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
