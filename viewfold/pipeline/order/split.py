"""Parting a data set into query and pool with every group (patient, slide, lesion, object) whole on one side."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from viewfold.errors import InvalidInput
from viewfold.keyed import key64

Rows = NDArray[np.int64]


class Split(NamedTuple):
    """Rows of the two sides, ascending."""

    query: Rows
    pool: Rows


def split_groups(group: Rows, *, names: Sequence[str], key: Callable[[int], str], share: float, seed: int = 0) -> Split:
    """About `share` of the samples as query, the rest as pool; a sample without a group (-1) stands for itself.

    `names` are the groups', `key` names a sample of its own. Groups are put in an order that their names and `seed`
    give, and the first of them are the query: as many as bring it nearest to `share`, but one for each side at least.
    So when samples are added, groups that were there keep their order, and only those between the old cut and the new
    one change sides.

    Raises:
        InvalidInput: a share outside of 0..1, or everything in one group.
    """
    if not 0 < share < 1:
        raise InvalidInput(f"the share of query samples must lie between 0 and 1, got {share}")
    numbers, members, sizes = np.unique(
        np.where(group >= 0, group, -1 - np.arange(len(group))), return_inverse=True, return_counts=True
    )
    if len(numbers) < 2:
        raise InvalidInput(f"all {len(group)} samples are of one group, which cannot lie on both sides of a split")
    keys = [
        key64("split", seed, *(("group", names[number]) if number >= 0 else ("sample", key(-1 - number))))
        for number in numbers.tolist()
    ]
    order = np.argsort(np.array(keys, dtype=np.uint64), kind="stable")
    misses = np.abs(np.cumsum(sizes[order])[:-1] - share * len(group))
    in_query = np.zeros(len(numbers), dtype=np.bool_)
    in_query[order[: int(np.argmin(misses)) + 1]] = True
    return Split(np.flatnonzero(in_query[members]), np.flatnonzero(~in_query[members]))
