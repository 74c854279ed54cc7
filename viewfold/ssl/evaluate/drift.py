"""How far the features of two pictures of one thing lie apart, and how often two predictions agree, with chance."""

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn import functional as F

from viewfold.errors import InvalidInput


def cosine_drift(first: Float[Tensor, "image dim"], second: Float[Tensor, "image dim"]) -> Float64[Tensor, " image"]:
    """1 - cos of each row with its partner: 0 for the same direction, 1 for orthogonal ones, at most 2.

    Computed as half the squared distance of the unit vectors, so equal rows give exactly 0. A row of zeros has no
    direction: it drifts by 0 from another one and by 1/2 from anything else.
    """
    return (_unit(first) - _unit(second)).square().sum(1) / 2


def drift_chance(features: Float[Tensor, "image dim"]) -> float:
    """Mean of 1 - cos over all pairs of different images: the drift of features that keep nothing of their image.

    Raises:
        InvalidInput: fewer than two images.
    """
    num = len(features)
    if num < 2:
        raise InvalidInput(f"drift needs at least two images to compare with each other, got {num}")
    unit = _unit(features)
    # The cosines of all ordered pairs sum to |sum u|^2; those of a row with itself are taken away.
    cosines = unit.sum(0).square().sum() - unit.square().sum()
    return float(1 - cosines / (num * (num - 1)))


def agreement_chance(labels: Int64[Tensor, " image"], num_predictions: int = 2) -> float:
    """Probability that the predictions of images drawn independently are all of one class: the sum of share^number."""
    shares = torch.unique(labels, return_counts=True)[1].double() / len(labels)
    return float(shares.pow(num_predictions).sum())


def _unit(features: Tensor) -> Float64[Tensor, "image dim"]:
    return F.normalize(features.double(), dim=1)
