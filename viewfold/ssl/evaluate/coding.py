"""How many nats a clustering needs to code the features: the score by which a number of clusters is chosen."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor


def coding_length(z: Float[Tensor, "row dim"], label: ArrayLike | Tensor, *, eps_sq: float = 0.1) -> float:
    """Nats that code the rows of `z` to within squared error `eps_sq`, cluster by cluster, and their clusters.

    sum_j (n_j + d)/2 logdet(I + d/(n_j eps_sq) Z_j' Z_j) - n_j ln(n_j / n) over the clusters j of `label` `[row]`, any
    ints (arXiv:2306.05272). Unlike a rate reduction it does not keep falling with the number of clusters: every one of
    them has its covariance to pay for. Computed in float64.
    """
    _, cluster = np.unique(np.asarray(label), return_inverse=True)
    rows, (num_rows, dim) = z.detach().cpu().double(), z.shape
    total = 0.0
    for number in range(int(cluster.max()) + 1):
        own = rows[torch.from_numpy(cluster == number)]
        size = len(own)
        shape = torch.eye(dim, dtype=torch.float64) + dim / (size * eps_sq) * (own.T @ own)
        total += (size + dim) / 2 * float(torch.logdet(shape)) - size * math.log(size / num_rows)
    return total


def best_num_clusters(
    z: Float[Tensor, "row dim"], clusterings: Mapping[int, ArrayLike | Tensor], *, eps_sq: float = 0.1
) -> tuple[int, dict[int, float]]:
    """The number of clusters whose clustering has the shortest code, the fewest of equal ones; and every coding length.

    `clusterings` are labels `[row]` by number of clusters, all of the same features: nothing is trained again.
    """
    lengths = {number: coding_length(z, labels, eps_sq=eps_sq) for number, labels in sorted(clusterings.items())}
    return min(lengths, key=lambda number: lengths[number]), lengths
