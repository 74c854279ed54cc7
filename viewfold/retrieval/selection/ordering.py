"""The order in which chosen demonstrations stand in the prompt."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from viewfold.keyed import generator
from viewfold.retrieval.selection.demos import DemoItem

Order = Literal["nearest_last", "nearest_first", "class_interleaved", "shuffled"]


def ordered(items: Sequence[DemoItem], order: Order, *, seed: int, query_id: str) -> list[DemoItem]:
    """Items, given by rank, in prompt order; `shuffled` depends on the seed and the query's id alone.

    `class_interleaved` deals the classes in turns, so that no class fills the end, and ends with the first choice.
    """
    if order == "nearest_first":
        return list(items)
    if order == "shuffled":
        places = generator("order of demonstrations", seed, query_id).permutation(len(items))
        return [items[place] for place in places.tolist()]
    if order == "class_interleaved":
        earlier = [sum(other.label == item.label for other in items[:place]) for place, item in enumerate(items)]
        return [items[place] for place in np.argsort(earlier, kind="stable")[::-1].tolist()]
    return list(items)[::-1]
