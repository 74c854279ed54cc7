"""Who belongs together in a batch: the doubly stochastic membership of MLC (arXiv:2301.01805).

N: rows of the batch. Potentials are in units of eta: membership_ij = exp(kernel_ij / eta + u_i + v_j).
"""

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.errors import InvalidInput
from viewfold.ssl.precision import in_float32

Kernel = Literal["abs", "inner"]
Solver = Literal["averaged", "alternating", "implicit"]

_MAX_STEPS = 1000
"""Averaged steps before `implicit` gives up; 26 to 39 reach the rounding error of float64 for any eta in use."""


@in_float32
def code_kernel(c: Float[Tensor, "row dim"], kind: Kernel) -> Float[Tensor, "row row"]:
    """Cosines of unit rows, with their sign (`inner`) or, like the rates, blind to it (`abs`); the diagonal is 1."""
    cosine_NN = c @ c.T
    return cosine_NN.abs() if kind == "abs" else cosine_NN


@in_float32
def doubly_stochastic(
    kernel: Float[Tensor, "row row"], *, eta: float, solver: Solver = "averaged", iterations: int = 5
) -> Float[Tensor, "row row"]:
    """The doubly stochastic matrix nearest to a symmetric `kernel`, with entropy of weight `eta`: arXiv:2301.01805.

    It maximises <kernel, membership> + eta * entropy(membership).

    Entries are 0 or more and rows sum to 1 exactly; columns are the clusters and sum to 1 as nearly as the solver got.

    - `averaged`: `iterations` steps that move the one potential of a symmetric kernel half-way to its fixed point.
    - `alternating`: Sinkhorn's `iterations` half-steps, rows first and last, so an odd number of them.
    - `implicit`: converged, whatever `iterations`, with the exact gradient; one N x N system, for tests and small N.

    The first two pass the gradient through the last normalisation of the rows alone, the column potential being held.

    Raises:
        InvalidInput: the number of half-steps is even.
    """
    logits_NN = kernel / eta
    if solver == "implicit":
        converged: Tensor = _Converged.apply(logits_NN)
        return converged
    with torch.no_grad():
        solve = _averaged if solver == "averaged" else _alternating
        v_N = solve(logits_NN, iterations)
    return (logits_NN + v_N).softmax(dim=1)


def batch_eta(eta: float, num_rows: int, *, reference_rows: int) -> float:
    """The `eta` that leaves a row of `num_rows` the weight for itself that `eta` leaves it among `reference_rows`.

    1 / eta' = 1 / eta + ln(num_rows / reference_rows): as many more rows to share with, as much sharper a kernel.

    Raises:
        InvalidInput: the batch is so small that no temperature does it.
    """
    inverse = 1 / eta + math.log(num_rows / reference_rows)
    if inverse <= 0:
        raise InvalidInput(
            f"eta {eta} for {reference_rows} rows has no counterpart for a batch of {num_rows}: "
            f"use more than {reference_rows * math.exp(-1 / eta):.0f} rows, or a smaller eta"
        )
    return 1 / inverse


@torch.no_grad()
def membership_facts(gamma: Float[Tensor, "row row"]) -> dict[str, Tensor]:
    """What to watch in a membership whose rows sum to 1, outside the graph.

    `gamma_diagonal`: mean weight of a row for itself; 1: everyone alone. `gamma_norm_sq`: squared Frobenius norm; N:
    everyone alone, 1: uniform. `gamma_entropy`: of all entries, in nats; between 0 and N ln N. `gamma_column_error`:
    how far the worst column's sum is from 1.
    """
    return {
        "gamma_diagonal": gamma.diagonal().mean(),
        "gamma_norm_sq": gamma.square().sum(),
        "gamma_entropy": torch.special.entr(gamma).sum(),
        "gamma_column_error": (gamma.sum(0) - 1).abs().max(),
    }


def _averaged(logits_NN: Tensor, iterations: int) -> Tensor:
    u_N = logits_NN.new_zeros(len(logits_NN))
    for _ in range(iterations):
        u_N = (u_N - (logits_NN + u_N).logsumexp(1)) / 2
    return u_N


def _alternating(logits_NN: Tensor, iterations: int) -> Tensor:
    if iterations % 2 == 0:
        raise InvalidInput(f"{iterations} half-steps would end on the columns: use an odd number, rows first and last")
    v_N = logits_NN.new_zeros(len(logits_NN))
    for _ in range(iterations // 2):
        u_N = -(logits_NN + v_N).logsumexp(1)
        v_N = -(logits_NN + u_N[:, None]).logsumexp(0)
    return v_N


class _Converged(torch.autograd.Function):
    """The fixed point; its gradient, that of symmetric changes of the logits, solves the linearised constraints."""

    @staticmethod
    def forward(ctx: Any, logits_NN: Tensor) -> Tensor:
        u_N = _averaged(logits_NN, 1)
        for _ in range(_MAX_STEPS):
            u_N, before_N = (u_N - (logits_NN + u_N).logsumexp(1)) / 2, u_N
            if (u_N - before_N).abs().max() <= 4 * torch.finfo(u_N.dtype).eps * u_N.abs().max():
                break
        gamma_NN = (logits_NN + u_N).softmax(dim=1)
        ctx.save_for_backward(gamma_NN)
        return gamma_NN

    @staticmethod
    def backward(ctx: Any, grad_NN: Tensor) -> Tensor:
        (gamma_NN,) = ctx.saved_tensors
        # Rows keep their sum: (I + gamma) du = -(gamma * dlogits) 1, and d gamma = gamma * (dlogits + du 1' + 1 du').
        direct_NN = grad_NN * gamma_NN
        pull_N = direct_NN.sum(0) + direct_NN.sum(1)
        w_N = torch.linalg.solve(torch.eye(len(gamma_NN)).to(gamma_NN) + gamma_NN, pull_N)
        total_NN = direct_NN - w_N[:, None] * gamma_NN
        symmetric_NN: Tensor = (total_NN + total_NN.T) / 2
        return symmetric_NN
