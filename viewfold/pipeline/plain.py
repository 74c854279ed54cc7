"""Shards that have no manifest, by webdataset itself: for a look at a data set."""

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from viewfold.errors import InvalidInput, MissingDependency, ShardError
from viewfold.pipeline.decode import decode_image
from viewfold.pipeline.shards import is_image
from viewfold.values import Batch


def plain_stream(
    urls: str | Sequence[str], *, image_size: int, batch_size: int, shuffle: int = 1000, seed: int = 0
) -> Iterator[Batch]:
    """One pass over shards that have no manifest (`pipe:` and web addresses too), by webdataset and its shuffle buffer.

    One image of each sample; rows, label, domain and group are -1, for only a manifest knows them. The last batch may
    have less. For a look at a data set, not for training: nothing here is resumed or split over ranks.

    Raises:
        ShardError: a sample without an image, or one that cannot be decoded.
    """
    try:
        import webdataset
    except ModuleNotFoundError:
        raise MissingDependency("plain_stream needs webdataset: pip install 'viewfold[train]'") from None
    samples = webdataset.WebDataset(urls, shardshuffle=False).shuffle(shuffle, rng=random.Random(seed))
    decoded = (_plain_image(sample, image_size) for sample in samples)
    while chunk := list(islice(decoded, batch_size)):
        keys, pixels = zip(*chunk, strict=True)
        none = torch.full((len(chunk),), -1)
        yield Batch(
            images=torch.from_numpy(np.stack(pixels))[None],
            keys=list(keys),
            rows=none,
            epochs=torch.zeros_like(none),
            members=torch.zeros_like(none)[None],
            label=none,
            domain=none,
            group=none,
            latents=None,
        )


def _plain_image(sample: Mapping[str, Any], image_size: int) -> tuple[str, NDArray[np.uint8]]:
    shard, key = Path(sample["__url__"]).stem, sample["__key__"]
    data = next((sample[ext] for ext in sorted(sample) if is_image(ext)), None)
    if data is None:
        raise ShardError(shard, "no image among its members", key)
    try:
        return f"{shard}/{key}", decode_image(data, image_size)
    except InvalidInput as error:
        raise ShardError(shard, str(error), key) from None
