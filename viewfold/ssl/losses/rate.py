"""Coding rates of MCR2 (arXiv:2006.08558) and MLC (arXiv:2301.01805): what it takes to code rows, in nats.

N: rows. D: their dimension. K: clusters, the columns of a membership; C: those of them that are worked on at a time.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from viewfold.ssl.dist import sum_over_ranks, world_size
from viewfold.ssl.precision import in_float32

SCRATCH_BYTES = 64 << 20
"""What `partition_rate` takes beside its inputs and their gradients, unless four D x D matrices and `z` need more; up
to three times that while matrices are done again in float64."""
_BLOCKS = 8
"""Blocks of the dimensions; covariances are symmetric, and only 36 of their 64 blocks are computed."""


class Rate(NamedTuple):
    """A rate, and how hard it was to come by."""

    nats: Float[Tensor, ""]
    """Differentiable."""
    fallbacks: Int[Tensor, ""]
    """How many matrices had no Cholesky factor in float32 and were done again in float64."""


@in_float32
def coding_rate(z: Float[Tensor, "batch dim"], *, eps_sq: float, half: bool = True) -> Rate:
    """Nats to code one row to within the squared error `eps_sq`, all rows together: R(Z) of arXiv:2006.08558.

    log det(I + D / (N eps_sq) Z'Z), halved if `half` (MCR2 and most of what follows it; MLC's paper does not halve).
    Of unit rows, before that, it is between log(1 + D / eps_sq) and D log(1 + 1 / eps_sq). `z` holds this rank's rows;
    every rank gets the value of the global batch. Rows that are not finite give nan.
    """
    nats, failed = _log_det_of_all(z, eps_sq)
    fallbacks = (failed & (z.dtype != torch.float64)).long()
    # The ranks agree on this without a word: after a reduction all hold the same bits.
    if fallbacks:
        nats = _log_det_of_all(z.double(), eps_sq)[0].to(z.dtype)
    return Rate(nats / 2 if half else nats, fallbacks)


@in_float32
def partition_rate(
    z: Float[Tensor, "rows dim"],
    membership: Float[Tensor, "rows cluster"],
    total: Float[Tensor, ""] | None = None,
    *,
    eps_sq: float,
    half: bool = True,
) -> Rate:
    """Nats to code one row once its clusters are known: R_c(Z, membership) of arXiv:2006.08558 and arXiv:2301.01805.

    sum_j s_j / N log det(I + D / (s_j eps_sq) Z' diag(membership_j) Z), halved if `half`; s_j is the sum of column j,
    and a column of zeros counts nothing. Entries are 0 or more; if rows sum to 1, R_c is at most `coding_rate`.

    All rows are given, and any of the columns; nothing is asked of other ranks. `total` takes the place of N, the sum
    of all s_j: of sampled columns, their own sum; of a rank's share of the columns, the mean of that over ranks, for
    then the mean of the values over ranks is the value of the global batch.
    """
    if not torch.is_grad_enabled():  # a Function is not told, and would make gradients all the same
        z, membership = z.detach(), membership.detach()
    summed, fallbacks = _PartitionRate.apply(z, membership, z.shape[1] / eps_sq)
    nats = summed / (len(z) if total is None else total)
    return Rate(nats / 2 if half else nats, fallbacks)


def _log_det_of_all(z: Tensor, eps_sq: float) -> tuple[Tensor, Tensor]:
    """log det of the global batch's covariance, and whether it had no Cholesky factor (then it is nan)."""
    num_rows, dim = len(z) * world_size(), z.shape[1]
    cov_DD = dim / (num_rows * eps_sq) * sum_over_ranks(z.T @ z)
    factor_DD, info = torch.linalg.cholesky_ex(cov_DD + torch.eye(dim).to(z))
    return _log_det(factor_DD, info), info > 0


def _log_det(factor: Tensor, info: Tensor) -> Tensor:
    """Of the matrices with these Cholesky factors; nan for those that have none."""
    return torch.where(info == 0, 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1), torch.nan)


class _PartitionRate(torch.autograd.Function):
    """sum_j s_j log det(...), not yet divided, and the number of fallbacks.

    The gradients are made on the way, while a chunk's inverses are at hand: to keep these until backward takes
    K D^2 numbers, and to make them again a third of the time. So there is no second derivative.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, membership: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        summed, fallbacks = z.new_zeros(()), torch.zeros((), dtype=torch.long, device=z.device)
        grad_z, grad_membership = torch.zeros_like(z), torch.zeros_like(membership)
        for columns in _chunks(z, membership.shape[1]):
            member_NC = membership[:, columns]
            s_C = member_NC.sum(0)
            share_NC = torch.where(s_C > 0, member_NC / s_C, 0)
            log_det_C, inverse_CDD, failed_C = _inverted(z, share_NC, alpha)
            summed += s_C @ log_det_C
            fallbacks += failed_C.sum()
            if any(ctx.needs_input_grad):
                quadratic_NC = _quadratic_forms(z, member_NC, inverse_CDD, grad_z)
                shared_C = log_det_C - z.shape[1] + inverse_CDD.diagonal(dim1=1, dim2=2).sum(1)
                grad_membership[:, columns] = torch.where(s_C > 0, shared_C + alpha * quadratic_NC, 0)
        ctx.save_for_backward(alpha * grad_z, grad_membership)
        ctx.mark_non_differentiable(fallbacks)
        return summed, fallbacks

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_z, grad_membership = ctx.saved_tensors
        return grad * grad_z, grad * grad_membership, None


def _inverted(z: Tensor, share_NC: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """log det and inverse of I + alpha Z' diag(share_j) Z for each column j, and which of them took float64."""
    num_clusters, dim = share_NC.shape[1], z.shape[1]
    matrix_CDD = z.new_empty(num_clusters, dim, dim)  # Cholesky never looks at the blocks above the diagonal
    for rows, until in _block_rows(z):
        matrix_CDD[:, rows, :until] = (alpha * share_NC.T @ _products(z, rows, until)).view(num_clusters, -1, until)
    matrix_CDD.diagonal(dim1=1, dim2=2).add_(1)
    factor_CDD, info_C = torch.linalg.cholesky_ex(matrix_CDD)
    log_det_C, inverse_CDD = _log_det(factor_CDD, info_C), torch.cholesky_inverse(factor_CDD)
    failed_C = (info_C > 0) & (z.dtype != torch.float64)
    if failed_C.any():
        again = _inverted(z.double(), share_NC[:, failed_C].double(), alpha)
        log_det_C[failed_C], inverse_CDD[failed_C] = again[0].to(z.dtype), again[1].to(z.dtype)
    return log_det_C, inverse_CDD, failed_C


def _quadratic_forms(z: Tensor, member_NC: Tensor, inverse_CDD: Tensor, grad_z: Tensor) -> Tensor:
    """z_i' P_j z_i of each row and inverse; adds to `grad_z` the gradient of their sum weighted with `member`."""
    quadratic_NC = torch.zeros_like(member_NC)
    for rows, until in _block_rows(z):
        lower_CBE = inverse_CDD[:, rows, :until].clone()
        lower_CBE[:, :, : rows.start] *= 2  # stands for the block above the diagonal as well
        quadratic_NC.addmm_(_products(z, rows, until), lower_CBE.flatten(1).T)
        pulled_NBE = (member_NC @ lower_CBE.flatten(1)).view(len(z), -1, until)
        grad_z[:, rows] += torch.bmm(pulled_NBE, z[:, :until, None])[:, :, 0]
        grad_z[:, :until] += torch.bmm(z[:, None, rows], pulled_NBE)[:, 0]
    return quadratic_NC


def _products(z: Tensor, rows: slice, until: int) -> Tensor:
    """z_ia z_ib for a in `rows` and b before `until`, one row of products for each i."""
    return (z[:, rows, None] * z[:, None, :until]).flatten(1)


def _block_rows(z: Tensor) -> Iterator[tuple[slice, int]]:
    """Rows of a D x D matrix, a few at a time, and the end of the columns that they reach up to the diagonal."""
    num_rows, dim = z.shape
    height = min(-(-dim // _BLOCKS), SCRATCH_BYTES // 8 // (num_rows * dim * z.element_size())) or 1
    for start in range(0, dim, height):
        until = min(start + height, dim)
        yield slice(start, until), until


def _chunks(z: Tensor, num_clusters: int) -> Iterator[slice]:
    """Columns that are worked on at a time; three quarters of the scratch for matrix, factor, inverse and a copy."""
    width = SCRATCH_BYTES * 3 // 4 // (4 * z.shape[1] ** 2 * z.element_size()) or 1
    for start in range(0, num_clusters, width):
        yield slice(start, start + width)
