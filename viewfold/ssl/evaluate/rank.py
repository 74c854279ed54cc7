"""How many dimensions the features use."""

from numpy.typing import ArrayLike
from torch import Tensor

from viewfold.ssl.evaluate.measure import Measure, finite
from viewfold.ssl.watch import effective_rank


def rank_measure(features: ArrayLike | Tensor) -> Measure:
    """Effective rank (RankMe, arXiv:2210.02885) of `[row, dim]` features.

    Chance is 1: the rank of an encoder that gives every image the same features. There is no interval, because rows
    drawn twice add no dimension and every draw would read too low.
    """
    own = finite(features)
    num_rows, dim = own.shape
    return Measure(
        name="effective_rank",
        value=float(effective_rank(own)),
        low=None,
        high=None,
        chance=1.0,
        n=num_rows,
        detail={"dim": dim, "largest_possible": min(num_rows, dim)},
    )
