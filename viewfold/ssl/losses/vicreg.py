"""VICReg's three terms (arXiv:2105.04906). D: embedding dimension."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from viewfold.ssl.dist import sum_over_ranks, world_size
from viewfold.ssl.precision import in_float32


@in_float32
def invariance_loss(a: Float[Tensor, "batch dim"], b: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """Mean squared difference of the embeddings of two views, neither centred nor normalised; 0 or more.

    Over this rank's rows; the mean over ranks is the value of the global batch.
    """
    return F.mse_loss(a, b)


@in_float32
def variance_hinge(z: Float[Tensor, "batch dim"], eps: float = 1e-4) -> Float[Tensor, ""]:
    """How far the standard deviation of each dimension is below 1, averaged: eq. 1; between 0 and 1.

    `z` holds this rank's rows; the value is that of the global batch, with its unbiased variance. `eps` is under the
    root.
    """
    num_rows = world_size() * len(z)
    var_D = sum_over_ranks(_centred(z).square().sum(0)) / (num_rows - 1)
    return F.relu(1 - torch.sqrt(var_D + eps)).mean()


@in_float32
def covariance_loss(z: Float[Tensor, "batch dim"], *, denominator: int | None = None) -> Float[Tensor, ""]:
    """Sum of the squared covariances of distinct dimensions, divided by D: eq. 4; 0 or more.

    `z` holds this rank's rows; the value is that of the global batch. Covariances are divided by `denominator`, by
    default the rows of the global batch minus one.
    """
    num_rows, dim = world_size() * len(z), z.shape[1]
    centred = _centred(z)
    # D x D crosses the network, not N x D, and each rank multiplies its own rows alone.
    cov_DD = sum_over_ranks(centred.T @ centred) / (denominator or num_rows - 1)
    return (cov_DD.square().sum() - cov_DD.diagonal().square().sum()) / dim


def _centred(z: Tensor) -> Tensor:
    """This rank's rows minus the mean of all ranks' rows."""
    return z - sum_over_ranks(z.mean(0)) / world_size()
