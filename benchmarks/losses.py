"""What the cheap form of SIE's predictor saves: a step beside one that writes every row's matrix out.

Forward and backward of all of SIE's terms and its linear predictor, for embeddings of the published width, on one core
in float32; the expanders and the encoder are left out. The peer makes the B x d x d weights with one linear layer and
multiplies by them, as the published code does; both sides compute the same loss with the same functions. Peak memory is
that of one step in a fresh process (Linux). The last line printed is the record, as JSON.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import Comparison, Row, compare, compared, isolated, run_suite, worst_case
from viewfold.ssl.methods.sie import SIEConfig, sie_terms
from viewfold.ssl.predictors import LinearPredictor

TARGET = 5.0
"""How often our step should fit into the peer's."""
CONFIG = SIEConfig()


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Sizes of a step; smaller in tests."""

    batch: int = 256
    dim: int = 1024
    """Of each of the two embeddings."""
    num_params: int = 4


FULL = Scale()


class DensePredictor(nn.Module):
    """The peer: W(z) x by way of all the W(z), a tensor of batch x dim x dim."""

    def __init__(self, dim: int, num_params: int) -> None:
        super().__init__()
        self.dim = dim
        self.hypernetwork = nn.Linear(num_params, dim * dim, bias=False)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """`[batch, dim]` of `[batch, dim]` and `[batch, num_params]`."""
        matrices = self.hypernetwork(z).view(len(x), self.dim, self.dim)
        return torch.bmm(matrices, x[:, :, None])[:, :, 0]


PREDICTORS: dict[str, Callable[[int, int], nn.Module]] = {"ours": LinearPredictor, "peer": DensePredictor}


def step_of(side: str, scale: Scale) -> Callable[[], tuple[Tensor, Sequence[Tensor]]]:
    """One step, which gives the loss and its gradients by the four embeddings and by the predictor's weights.

    Both sides get the same numbers.
    """
    random = torch.Generator().manual_seed(0)
    embeddings = torch.randn(4, scale.batch, scale.dim, generator=random)
    a, x, b, y = (rows.clone().requires_grad_() for rows in embeddings)
    z = nn.functional.normalize(torch.randn(scale.batch, scale.num_params, generator=random))
    predictor = PREDICTORS[side](scale.dim, scale.num_params)
    (weight,) = predictor.parameters()
    with torch.no_grad():
        weight.view(-1, scale.num_params).uniform_(-0.5, 0.5, generator=random)

    def step() -> tuple[Tensor, Sequence[Tensor]]:
        loss = torch.stack(list(sie_terms((a, x), (b, y), predictor(x, z), CONFIG).values())).sum()
        return loss, torch.autograd.grad(loss, [a, x, b, y, weight])

    return step


def steps_compared(scale: Scale, repeats: int) -> Comparison:
    """Steps of both sides in turns."""
    return compare(step_of("ours", scale), step_of("peer", scale), repeats=repeats)


def peak_bytes(side: str, scale: Scale) -> float:
    """How far resident memory rises above what it is before a step, weights and embeddings included in the latter."""
    step_of(side, Scale(batch=4, dim=8))()  # the first step of a process loads kernels
    step = step_of(side, scale)
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


def memory_row(scale: Scale, repeats: int) -> Row:
    """How often our step's memory fits into the peer's: median over fresh processes, and its 95 % interval."""
    ours, peer = ([isolated(peak_bytes, side, scale) for _ in range(repeats)] for side in PREDICTORS)
    value, low, high = Comparison(ours_s=ours, peer_s=peer).ratio()  # bytes in the place of seconds
    return {
        "name": "sie_predictor_peak_memory_ratio",
        **vars(scale),
        "device": "cpu",
        "value": value,
        "low": low,
        "high": high,
        "ours_mb": sorted(ours)[repeats // 2] / 1e6,
        "peer_mb": sorted(peer)[repeats // 2] / 1e6,
        "repeats": repeats,
    }


def rows(repeats: int, scale: Scale = FULL) -> Iterator[Row]:
    """All measurements, one by one."""
    measured = isolated(steps_compared, scale, repeats)
    yield compared("sie_predictor_vs_dense", TARGET, measured, **vars(scale))
    yield memory_row(scale, min(repeats, 3))


def facts(measured: list[Row]) -> dict[str, Any]:
    """The worst case of each name, and what one must know to read the rows."""
    return {
        "worst_case": worst_case(measured),
        "notes": [
            "forward and backward of SIE's terms and the linear predictor, float32, one core; no encoder, no expanders",
            "the peer makes the batch x dim x dim weights and multiplies by them; the terms are the same functions",
            "memory: peak of one step above what the process holds before it, each in a fresh process",
        ],
    }


if __name__ == "__main__":
    run_suite("losses", rows, about=__doc__, repeats=9, facts=facts)
