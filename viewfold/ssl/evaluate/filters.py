"""Degenerate 3x3 filters of a network: capacity that was never used, or used twice.

A slice is the 3x3 kernel of one input and one output channel. What counts as degenerate follows the measures of
arXiv:2203.15331 (sparsity, and the entropy of the variance spectrum), each relative to the layer itself.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from viewfold.keyed import generator

_NEAR_ZERO = 0.01  # of the largest norm in the layer
_NEAR_DUPLICATE = 0.99  # absolute cosine; two random slices are that close once in 20 million pairs
_LOW_ENTROPY = 0.5  # of the entropy of random slices
_SAMPLE = 4096  # slices compared with each other; the same bound for all layers keeps them comparable
_BLOCK = 512
_RANDOM_DRAWS = 16


@dataclass(frozen=True)
class FilterReport:
    """How the 3x3 slices of one layer are used."""

    layer: str
    """Name of the layer in its network."""
    num: int
    """Slices: output channels times input channels of a group."""
    near_zero: float
    """Share of slices whose norm is at most 1 % of the layer's largest."""
    near_duplicate: float
    """Share of slices, among those not near zero, with a cosine of at least 0.99, of either sign, to another one. Of
    more than 4096 slices, as many are taken at random and compared with each other."""
    low_entropy: float | None
    """Share of output channels whose own slices have less than half the entropy that random ones have; None where an
    output channel has fewer than three slices."""
    entropy_ratio: float | None
    """Entropy of the variance spectrum of all slices, over that of as many random normal ones: about 1 as initialised,
    0 where all are multiples of one pattern; None with fewer than three slices."""


def degenerate_filters(module: nn.Module, *, seed: int = 0) -> list[FilterReport]:
    """One report for each 3x3 convolution of `module`, in its order; none for layers of other sizes."""
    return [
        _report(name, layer.weight.detach().to("cpu", torch.float32), seed)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)
    ]


def _report(name: str, weight: Float[Tensor, "out in 3 3"], seed: int) -> FilterReport:
    by_output = weight.flatten(2)
    slices = by_output.flatten(0, 1)
    norm = slices.norm(dim=1)
    near_zero = norm <= _NEAR_ZERO * norm.max()
    by_channel = relative_entropy(by_output)
    ratio = relative_entropy(slices[None])
    return FilterReport(
        layer=name,
        num=len(slices),
        near_zero=_share(near_zero),
        near_duplicate=duplicate_share(slices[~near_zero], seed=seed),
        low_entropy=None if by_channel is None else _share(by_channel < _LOW_ENTROPY),
        entropy_ratio=None if ratio is None else float(ratio),
    )


def duplicate_share(slices: Float[Tensor, "slice 9"], *, seed: int = 0) -> float:
    """Share of non-zero slices that point the same or the opposite way as another one; 0 of fewer than two."""
    if len(slices) > _SAMPLE:
        chosen = generator("filter slices", seed).permutation(len(slices))[:_SAMPLE]
        slices = slices[torch.from_numpy(chosen)]
    if len(slices) < 2:
        return 0.0
    unit = F.normalize(slices, dim=1)
    # Itself is one of those that each slice is close to.
    close = [((block @ unit.T).abs() >= _NEAR_DUPLICATE).sum(dim=1) > 1 for block in torch.split(unit, _BLOCK)]
    return _share(torch.cat(close))


def relative_entropy(slices: Float[Tensor, "set slice 9"]) -> Float[Tensor, " set"] | None:
    """Entropy of the variance spectrum of each set of slices, over the mean of as many random normal ones."""
    num = slices.shape[1]
    if num < 3:
        return None  # two centred slices always lie on a line
    num_random = min(num, _SAMPLE)  # from there on the entropy is within a thousandth of its limit
    random = generator("random filters", num_random).standard_normal((_RANDOM_DRAWS, num_random, 9))
    return spectrum_entropy(slices.double()).float() / float(spectrum_entropy(torch.from_numpy(random)).mean())


def spectrum_entropy(slices: Float[Tensor, "set slice 9"]) -> Float[Tensor, " set"]:
    """Entropy in nats of the shares of variance along the principal directions of each set; 0 without variance."""
    centred = slices - slices.mean(dim=1, keepdim=True)
    variance = torch.linalg.eigvalsh(centred.mT @ centred).clamp(min=0)  # squared singular values
    total = variance.sum(dim=1, keepdim=True)
    share = variance / total.clamp(min=np.finfo(np.float64).tiny)
    return -torch.xlogy(share, share).sum(dim=1)


def _share(marked: Bool[Tensor, " slice"]) -> float:
    return int(marked.sum()) / len(marked)
