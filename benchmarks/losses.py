"""What the cheap forms of the losses save: a step of each beside one that writes the large tensors out.

Forward and backward on one core in float32, without any network; both sides compute the same loss of the same numbers.

- `sie_predictor`: all of SIE's terms and its linear predictor, for embeddings of the published width. The peer makes
  the B x d x d weights with one linear layer and multiplies by them, as the published code does.
- `mlc`: the rate within clusters by an N x N membership. The peer multiplies each column of the membership into the
  rows, an N x d x N tensor, makes the N covariances with one batched product, takes their `torch.logdet` and leaves the
  gradient to autograd. Ours is `partition_rate`: by all columns, or (`mlc_sampled`) by some of them.

Peak memory is that of one step in a fresh process (Linux). The last line printed is the record, as JSON.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.measure import Comparison, Label, Row, compare, compared, isolated, run_suite, worst_case
from viewfold.ssl.losses import partition_rate
from viewfold.ssl.methods.sie import SIEConfig, sie_terms
from viewfold.ssl.predictors import LinearPredictor
from viewfold.ssl.sinkhorn import code_kernel, doubly_stochastic

SIE_TARGET, MLC_TARGET, SAMPLED_TARGET = 5.0, 3.0, 15.0
"""How often our step should fit into the peer's: with SIE's predictor, by all columns, by the sampled ones."""
LABELS = {
    "sie_predictor_vs_dense": Label(
        what="SIE's loss and predictor, forward and backward, 256 rows x 1024", beside="a matrix for each row"
    ),
    "sie_predictor_peak_memory_ratio": Label(what="peak memory of SIE's step", beside="a matrix for each row"),
    "mlc_vs_naive": Label(
        what="MLC's compression, forward and backward, 1024 rows x 128",
        beside="1024 products and log-determinants under autograd",
    ),
    "mlc_sampled_vs_naive": Label(
        what="MLC's compression by 128 sampled columns", beside="all 1024 products and log-determinants"
    ),
    "mlc_peak_memory_ratio": Label(
        what="peak memory of MLC's compression, all columns", beside="1024 products and log-determinants"
    ),
}
CONFIG = SIEConfig()
EPS_SQ = 0.1

Step = Callable[[], tuple[Tensor, Sequence[Tensor]]]
"""Gives a loss and its gradients."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Sizes of SIE's step; smaller in tests."""

    batch: int = 256
    dim: int = 1024
    """Of each of the two embeddings."""
    num_params: int = 4


@dataclass(frozen=True, kw_only=True)
class RateScale:
    """Sizes of MLC's step; smaller in tests."""

    rows: int = 1024
    dim: int = 128
    clusters: int = 10
    """Directions that the rows lie around."""
    sampled: int = 128
    """Columns that `sampled` looks at, of as many as there are rows."""


FULL, FULL_RATE = Scale(), RateScale()


class DensePredictor(nn.Module):
    """SIE's peer: W(z) x by way of all the W(z), a tensor of batch x dim x dim."""

    def __init__(self, dim: int, num_params: int) -> None:
        super().__init__()
        self.dim = dim
        self.hypernetwork = nn.Linear(num_params, dim * dim, bias=False)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """`[batch, dim]` of `[batch, dim]` and `[batch, num_params]`."""
        matrices = self.hypernetwork(z).view(len(x), self.dim, self.dim)
        return torch.bmm(matrices, x[:, :, None])[:, :, 0]


PREDICTORS: dict[str, Callable[[int, int], nn.Module]] = {"ours": LinearPredictor, "peer": DensePredictor}


def step_of(side: str, scale: Scale) -> Step:
    """SIE's: the gradients are those by the four embeddings and by the predictor's weights."""
    random = torch.Generator().manual_seed(0)
    embeddings = torch.randn(4, scale.batch, scale.dim, generator=random)
    a, x, b, y = (rows.clone().requires_grad_() for rows in embeddings)
    z = F.normalize(torch.randn(scale.batch, scale.num_params, generator=random))
    predictor = PREDICTORS[side](scale.dim, scale.num_params)
    (weight,) = predictor.parameters()
    with torch.no_grad():
        weight.view(-1, scale.num_params).uniform_(-0.5, 0.5, generator=random)

    def step() -> tuple[Tensor, Sequence[Tensor]]:
        loss = torch.stack(list(sie_terms((a, x), (b, y), predictor(x, z), CONFIG).values())).sum()
        return loss, torch.autograd.grad(loss, [a, x, b, y, weight])

    return step


def rate_of_all(z: Tensor, membership: Tensor, columns: Tensor) -> Tensor:
    """Ours, by all columns."""
    return partition_rate(z, membership, eps_sq=EPS_SQ).nats


def rate_of_some(z: Tensor, membership: Tensor, columns: Tensor) -> Tensor:
    """Ours, by the sampled columns."""
    sampled = membership[:, columns]
    return partition_rate(z, sampled, sampled.sum(), eps_sq=EPS_SQ).nats


def rate_written_out(z: Tensor, membership: Tensor, columns: Tensor) -> Tensor:
    """The peer: sum_j s_j / N log det(I + d / (s_j eps_sq) Z' diag(membership_j) Z), halved; by all columns."""
    sums = membership.sum(0)
    weighted = z.T[None] * membership.T[:, None]
    covariances = (z.shape[1] / EPS_SQ / sums)[:, None, None] * (weighted @ z)
    return 0.5 * (sums * torch.logdet(torch.eye(z.shape[1]) + covariances)).sum() / len(z)


RATES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "ours": rate_of_all,
    "sampled": rate_of_some,
    "peer": rate_written_out,
}


def rate_step_of(side: str, scale: RateScale) -> Step:
    """MLC's: the gradients are those by the rows and by the membership."""
    random = torch.Generator().manual_seed(0)
    directions = 2 * torch.randn(scale.clusters, scale.dim, generator=random)
    spread = torch.randn(scale.rows, scale.dim, generator=random)
    z = F.normalize(directions[torch.arange(scale.rows) % scale.clusters] + spread)
    membership = doubly_stochastic(code_kernel(z, "abs"), eta=0.175).requires_grad_()
    columns = torch.randperm(scale.rows, generator=random)[: scale.sampled]
    z.requires_grad_()

    def step() -> tuple[Tensor, Sequence[Tensor]]:
        loss = RATES[side](z, membership, columns)
        return loss, torch.autograd.grad(loss, [z, membership])

    return step


def steps_compared(scale: Scale, repeats: int) -> Comparison:
    """SIE's steps of both sides in turns."""
    return compare(step_of("ours", scale), step_of("peer", scale), repeats=repeats)


def rate_steps_compared(side: str, scale: RateScale, repeats: int) -> Comparison:
    """MLC's steps of `side` and the peer in turns."""
    return compare(rate_step_of(side, scale), rate_step_of("peer", scale), repeats=repeats)


def sie_peak_bytes(side: str, scale: Scale) -> float:
    """Memory of SIE's step; the weights and embeddings were there before it."""
    step_of(side, Scale(batch=4, dim=8))()
    return peak_bytes(step_of(side, scale))


def mlc_peak_bytes(side: str, scale: RateScale) -> float:
    """Memory of MLC's step; the rows and the membership were there before it."""
    rate_step_of(side, RateScale(rows=16, dim=8, sampled=4))()
    return peak_bytes(rate_step_of(side, scale))


def peak_bytes(step: Step) -> float:
    """How far resident memory rises above what it is before a step. A first one has loaded the kernels."""
    # Not getrusage: its peak is never reset, and begins with what the parent of a spawned process held.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    result = step()
    peak = _status("VmHWM")
    assert result[0].isfinite()
    return float(peak - before)


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None, f"no {name} in /proc/self/status"
    return int(found[1]) * 1024


def memory_row(name: str, peak_of: Callable[..., float], scale: Scale | RateScale, repeats: int) -> Row:
    """How often our step's memory fits into the peer's: median over fresh processes, and its 95 % interval."""
    ours, peer = ([isolated(peak_of, side, scale) for _ in range(repeats)] for side in ("ours", "peer"))
    value, low, high = Comparison(ours_s=ours, peer_s=peer).ratio()  # bytes in the place of seconds
    return {
        "name": name,
        **vars(scale),
        "device": "cpu",
        "value": value,
        "low": low,
        "high": high,
        "ours_mb": sorted(ours)[repeats // 2] / 1e6,
        "peer_mb": sorted(peer)[repeats // 2] / 1e6,
        "repeats": repeats,
    }


def rows(repeats: int, sie: Scale = FULL, mlc: RateScale = FULL_RATE) -> Iterator[Row]:
    """All measurements, one by one."""
    measured = isolated(steps_compared, sie, repeats)
    yield compared("sie_predictor_vs_dense", SIE_TARGET, measured, **vars(sie))
    yield memory_row("sie_predictor_peak_memory_ratio", sie_peak_bytes, sie, min(repeats, 3))
    measured = isolated(rate_steps_compared, "ours", mlc, repeats)
    yield compared("mlc_vs_naive", MLC_TARGET, measured, **vars(mlc))
    measured = isolated(rate_steps_compared, "sampled", mlc, repeats)
    yield compared("mlc_sampled_vs_naive", SAMPLED_TARGET, measured, **vars(mlc))
    yield memory_row("mlc_peak_memory_ratio", mlc_peak_bytes, mlc, min(repeats, 3))


def facts(measured: list[Row]) -> dict[str, Any]:
    """The worst case of each name, and what one must know to read the rows."""
    return {
        "worst_case": worst_case(measured),
        "notes": [
            "forward and backward, float32, one core; no encoder, no expanders",
            "sie: the peer makes the batch x dim x dim weights and multiplies by them; the terms are the same",
            "mlc: the peer makes the rows x dim x rows products, one batched matrix product and one batched logdet; it "
            "does so for all columns, also beside the sampled ones",
            "memory: peak of one step above what the process holds before it, each in a fresh process",
        ],
    }


if __name__ == "__main__":
    run_suite("losses", rows, about=__doc__, repeats=9, labels=LABELS, facts=facts)
