"""VICReg's three terms (arXiv:2105.04906). D: embedding dimension."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from viewfold.ssl.precision import in_float32


@in_float32
def invariance_loss(a: Float[Tensor, "batch dim"], b: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """Mean squared difference of the embeddings of two views, neither centred nor normalised; 0 or more.

    Over this rank's rows; the mean over ranks is the value of the global batch.
    """
    return F.mse_loss(a, b)


@in_float32
def variance_hinge(z: Float[Tensor, "all_rows dim"], eps: float = 1e-4) -> Float[Tensor, ""]:
    """How far the standard deviation of each dimension is below 1, averaged: eq. 1; between 0 and 1.

    `z` holds the rows of all ranks (`gather_rows`); the variance is unbiased and `eps` is under the root.
    """
    return F.relu(1 - torch.sqrt(z.var(dim=0) + eps)).mean()


@in_float32
def covariance_loss(z: Float[Tensor, "all_rows dim"], *, denominator: int | None = None) -> Float[Tensor, ""]:
    """Sum of the squared covariances of distinct dimensions, divided by D: eq. 4; 0 or more.

    `z` holds the rows of all ranks (`gather_rows`). Covariances are divided by `denominator`, by default the rows minus
    one.
    """
    num_rows, dim = z.shape
    centred = z - z.mean(dim=0)
    cov_DD = centred.T @ centred / (denominator or num_rows - 1)
    return (cov_DD.square().sum() - cov_DD.diagonal().square().sum()) / dim
