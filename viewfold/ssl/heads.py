"""What stands between an encoder's features and a loss, and is thrown away after training."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def expander(dim: int, widths: Sequence[int]) -> nn.Sequential:
    """An MLP from `dim` to the last of `widths`: BatchNorm and ReLU after every layer but the last, which has no bias.

    SIE and VICReg take their losses on its output.
    """
    layers: list[nn.Module] = []
    *hidden, last = pairwise((dim, *widths))
    for fan_in, fan_out in hidden:
        layers += [nn.Linear(fan_in, fan_out), nn.BatchNorm1d(fan_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(*last, bias=False))


def check_widths(widths: Sequence[int]) -> None:
    """For `__post_init__`: a loss over the dimensions of an embedding needs two of them.

    Raises:
        ValueError: no width, or one below 2.
    """
    if not widths or min(widths) < 2:
        raise ValueError(f"expander_widths must be one or more widths of at least 2, got {tuple(widths)}")
