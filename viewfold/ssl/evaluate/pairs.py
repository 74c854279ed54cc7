"""Pairs of views of one object, each with what takes the first view to the second."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from viewfold.errors import InvalidInput
from viewfold.keyed import generator
from viewfold.ssl.evaluate.measure import finite


@dataclass(frozen=True)
class Pairs:
    """Ordered pairs of views, as rows of a table of features, with the transformation from the first to the second."""

    features: Tensor
    """float32 `[image, dim]`."""
    first: Tensor
    """int64 `[pair]`: row of the first view."""
    second: Tensor
    """int64 `[pair]`: row of the second view."""
    target: Tensor
    """float32 `[pair, k]`: the transformation, such as a relative quaternion."""
    group: Tensor
    """int64 `[pair]`: the object, what the bootstrap draws; -1 for none."""


def relation_pairs(
    features: ArrayLike | Tensor,
    latents: ArrayLike | Tensor,
    objects: ArrayLike | Tensor,
    *,
    relate: Callable[[Tensor, Tensor], Tensor],
    pairs_per_object: int,
    seed: int = 0,
) -> Pairs:
    """Pairs of views of the same object with what `relate` makes of their latents.

    `features` is `[image, dim]`, `latents` `[image, latent]` the recorded parameters of each image, `objects` `[image]`
    ints that say which images show the same object. `relate` takes two tables `[pair, latent]`, of the first and of the
    second views, to the transformation `[pair, k]`, as `Recorded.between` does. The same objects and seed give the same
    pairs, whatever is asked of them.

    Raises:
        InvalidInput: no object has two images, or features are nan or infinite.
    """
    object_of = np.asarray(objects, dtype=np.int64)
    first, second = draw_pairs(object_of, pairs_per_object=pairs_per_object, seed=seed)
    table = torch.as_tensor(latents).to("cpu", torch.float32)
    i, j = torch.from_numpy(first), torch.from_numpy(second)
    return Pairs(finite(features), i, j, relate(table[i], table[j]), torch.from_numpy(object_of[first]))


def draw_pairs(
    objects: NDArray[np.int64], *, pairs_per_object: int, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the first and second views of `pairs_per_object` ordered pairs of distinct views of each object.

    A pair may be drawn twice. Objects with a single image give none.
    """
    rng = generator("pairs", seed)
    first, second = [], []
    _, sizes = np.unique(objects, return_counts=True)
    for rows in np.split(np.argsort(objects, kind="stable"), np.cumsum(sizes)[:-1]):
        if len(rows) < 2:
            continue
        a = rng.integers(len(rows), size=pairs_per_object)
        b = (a + 1 + rng.integers(len(rows) - 1, size=pairs_per_object)) % len(rows)
        first.append(rows[a])
        second.append(rows[b])
    if not first:
        raise InvalidInput(
            "pairs of views: no object has two images; a transformation between views needs samples that store several"
        )
    return np.concatenate(first), np.concatenate(second)
