"""What stands between an encoder's features and a loss, and is thrown away after training."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def expander(dim: int, widths: Sequence[int]) -> nn.Sequential:
    """An MLP from `dim` to the last of `widths`: BatchNorm and ReLU after every layer but the last, which has no bias.

    SIE and VICReg take their losses on its output.
    """
    layers: list[nn.Module] = []
    *hidden, last = pairwise((dim, *widths))
    for fan_in, fan_out in hidden:
        layers += [nn.Linear(fan_in, fan_out), nn.BatchNorm1d(fan_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(*last, bias=False))


class LinearHypernetwork(nn.Module):
    """Predicts the transformed embedding as W(z) x, a matrix that is linear in the transformation z (SIE).

    Bilinear and without bias: z = 0 predicts 0, and -z predicts the opposite, so the sign convention of z must be one
    everywhere. The weight is uniform in +-1/sqrt(k), torch's rule for a linear layer that takes z (k values): for unit
    z, an untrained prediction is then about sqrt(dim / (3 k)) times as large as x.
    """

    def __init__(self, dim: int, num_params: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(num_params)
        self.weight = nn.Parameter(torch.empty(dim, dim, num_params).uniform_(-bound, bound))
        """`[out, in, k]`: W(z)[i, j] is the sum over k of weight[i, j, k] z[k]."""

    def forward(self, x: Float[Tensor, "batch dim"], z: Float[Tensor, "batch k"]) -> Float[Tensor, "batch dim"]:
        """W(z) x for each row."""
        # One matrix product with x (outer) z: the dim x dim matrix of a row (4 MB at 1024) is never made.
        outer = (x[:, :, None] * z[:, None, :]).flatten(1)
        return F.linear(outer, self.weight.flatten(1))
