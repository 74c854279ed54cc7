"""How features lie on the unit sphere: views of one object close together, all images spread out.

Alignment and uniformity are those of arXiv:2005.10242 (equations 1 and 2, with alpha = 2 and t = 2).
"""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from viewfold.errors import InvalidInput
from viewfold.keyed import generator
from viewfold.ssl.evaluate.groups import numbered
from viewfold.ssl.evaluate.interval import bootstrap
from viewfold.ssl.evaluate.measure import Measure, finite

_T = 2.0
_MAX_ROWS = 1024  # half a million pairs; a draw of the bootstrap reads all of them


def alignment(
    features: ArrayLike | Tensor,
    first: ArrayLike | Tensor,
    second: ArrayLike | Tensor,
    group: ArrayLike | Tensor,
    *,
    seed: int = 0,
) -> Measure:
    """Mean squared distance between the L2-normalised features of two views of one object, 0..4; lower is closer.

    `features` is `[image, dim]`; `first` and `second` `[pair]` are its rows that show one object; `group` `[image]`
    says what is independent, -1 for a group of its own. A pair belongs to the group of its first view. Chance is the
    mean over the first view of each pair with the second view of each pair of another group.

    Raises:
        InvalidInput: the pairs are all of one group, or features are nan or infinite.
    """
    sphere = F.normalize(finite(features), dim=1).double()
    i, j = (torch.as_tensor(rows) for rows in (first, second))
    group_of, num_groups = numbered(np.asarray(group, dtype=np.int64)[i.numpy()])
    if num_groups < 2:
        raise InvalidInput(f"alignment: the {len(i)} pairs of views are all of one group; two are needed for chance")
    distance = (sphere[i] - sphere[j]).square().sum(dim=1).numpy()
    return Measure(
        name="alignment",
        **bootstrap(lambda weights: float(np.average(distance, weights=weights)), group_of, seed=seed)._asdict(),
        chance=_between_groups(sphere[i], sphere[j], torch.from_numpy(group_of), num_groups),
        n=len(distance),
        detail={"alpha": 2, "num_groups": num_groups},
    )


def uniformity(features: ArrayLike | Tensor, group: ArrayLike | Tensor, *, seed: int = 0) -> Measure:
    """Log of the mean of exp(-2 |x - y|^2) over pairs of L2-normalised features: 0 collapsed, towards -4 spread out.

    `features` is `[image, dim]`, `group` `[image]` says what is independent, -1 for a group of its own. Of more than
    1024 rows as many are taken at random. In the interval a pair within a group counts as often as its group was drawn,
    a pair of two groups by both. `detail["on_sphere"]` is what the uniform law on the sphere has.

    Raises:
        InvalidInput: fewer than two rows, or features are nan or infinite.
    """
    own, groups = finite(features), np.asarray(group, dtype=np.int64)
    if len(own) < 2:
        raise InvalidInput(f"uniformity: pairs of images are compared, got {len(own)} image")
    rows = np.sort(generator("uniformity", seed).permutation(len(own))[:_MAX_ROWS])
    group_of, num_groups = numbered(groups[rows])
    sphere = F.normalize(own[torch.from_numpy(rows)], dim=1).double().numpy()
    length = (sphere**2).sum(axis=1)  # 1, but 0 where an encoder is dead: such images are all at one point
    closeness = np.exp(-_T * np.maximum(length[:, None] + length - 2 * sphere @ sphere.T, 0))
    np.fill_diagonal(closeness, 0)  # no image is a pair with itself
    member = np.eye(num_groups)[group_of]
    close, size = member.T @ closeness @ member, member.sum(axis=0)
    close_within = close.diagonal().copy()
    np.fill_diagonal(close, 0)

    def log_mean(weights: NDArray[np.float64]) -> float:
        times = np.zeros(num_groups)
        times[group_of] = weights
        drawn = times * size
        number = drawn @ (size - 1) + drawn.sum() ** 2 - drawn @ drawn
        if number == 0:
            return 0.0  # the draw is a single image, over and over: collapsed
        return float(np.log((times @ close_within + times @ close @ times) / number))

    return Measure(
        name="uniformity",
        **bootstrap(log_mean, group_of, seed=seed)._asdict(),
        chance=0.0,
        n=len(rows),
        detail={"t": _T, "of_rows": len(own), "on_sphere": uniformity_on_sphere(own.shape[1])},
    )


def uniformity_on_sphere(dim: int, t: float = _T) -> float:
    """The log mean of exp(-t |x - y|^2) for x, y uniform on the unit sphere of `dim` dimensions; -2t as `dim` grows.

    E exp(2t x.y) is the hypergeometric 0F1(dim / 2; t^2).
    """
    from scipy.special import hyp0f1

    return float(np.log(hyp0f1(dim / 2, t * t)) - 2 * t)


def _between_groups(
    first: Float[Tensor, "pair dim"], second: Float[Tensor, "pair dim"], group: Tensor, num_groups: int
) -> float:
    """Mean of |first_i - second_j|^2 over all i, j of different groups, from sums by group."""
    empty = first.new_zeros(num_groups, first.shape[1])
    sums = [empty.index_add(0, group, side) for side in (first, second)]
    squares = [first.new_zeros(num_groups).index_add(0, group, side.square().sum(dim=1)) for side in (first, second)]
    size = torch.bincount(group, minlength=num_groups).double()
    other = size.sum() - size  # pairs of other groups, for each group
    product = sums[0].sum(dim=0) @ sums[1].sum(dim=0) - (sums[0] * sums[1]).sum()
    total = squares[0] @ other + squares[1] @ other - 2 * product
    return float(total / (size @ other))
