"""Whole methods, BatchNorm included: on 1, 2 and 4 ranks the same loss, gradient and running statistics."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from ranks import run_ranks
from torch import Tensor

from viewfold.config import choose
from viewfold.ssl.batchnorm import with_gathered_batchnorm
from viewfold.ssl.dist import rank, sum_over_ranks, world_size
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing
from viewfold.ssl.methods import METHOD_CONFIGS, METHODS, MethodConfig, MLCConfig, Task
from viewfold.ssl.subspace_head import SubspaceHead, SubspaceHeadConfig
from viewfold.values import Views

DRAWN = ("rotation_rad", "log_scale_x")
TASK = Task(tuple(f"latent_{i}" for i in range(7)), num_labels=3, num_domains=2, relative_names=DRAWN)
NUM_SAMPLES = 8


def _views() -> Views:
    """This rank's share of one global batch; labels are spread unevenly, and one is missing."""
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(2, NUM_SAMPLES, 3, 16, 16, dtype=torch.float64, generator=generator)
    params = torch.rand(2, NUM_SAMPLES, 7, dtype=torch.float64, generator=generator)
    relative = torch.rand(NUM_SAMPLES, 2, dtype=torch.float64, generator=generator)
    label, domain = torch.tensor([0, 0, 0, -1, 1, 0, 1, 2]), torch.tensor([0, 1, 0, 1, 0, 0, 1, 1])
    own = slice(rank() * NUM_SAMPLES // world_size(), (rank() + 1) * NUM_SAMPLES // world_size())
    group = torch.arange(NUM_SAMPLES)
    known = (params[:, own], TASK.param_names, label[own], domain[own], group[own])
    parent = torch.tensor([[0, 0, 1, 1, 2, -1, 2, -1], [0, 1, 1, -1, 2, 0, 0, -1]])[:, own]
    return Views(images[:, own], *known, relative=relative[own], relative_names=DRAWN, parent=parent)


def _task(config: MethodConfig, encoder: Encoder) -> Task:
    """Mined pairs for the method that needs them, and the kept head that MLC goes on from if it does not warm up."""
    if config.name == "transitive":
        return replace(TASK, paired=True)
    if not isinstance(config, MLCConfig) or config.warmup_steps > 0:
        return TASK
    part = encoder.parts[config.part]
    head = SubspaceHeadConfig(
        part=config.part, part_dim=part.stop - part.start, hidden_widths=config.hidden_widths, dim=config.dim
    )
    return replace(TASK, head=SubspaceHead(head))


def _mean_over_ranks(x: Tensor) -> Tensor:
    return sum_over_ranks(x.detach()) / world_size()


def _step(data: dict[str, Any], backbone: str = "resnet-small") -> dict[str, dict[str, Tensor]]:
    """Mean over ranks of terms and gradients after one backward pass, and the state that it left."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(backbone=backbone, equivariant_dim=96, preprocessing=Preprocessing(image_size=16)))
    config = choose("method", METHOD_CONFIGS, data)
    method = with_gathered_batchnorm(METHODS[config.name].build(config, encoder, _task(config, encoder)).double())
    with torch.no_grad():  # a residual branch ends in a gain of 0, which would hide the gradients before it
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    terms = method(_views()).terms
    names, parameters = zip(*method.named_parameters(), strict=True)
    grads = torch.autograd.grad(torch.stack([*terms.values()]).sum(), parameters)
    return {
        "terms": {name: _mean_over_ranks(term) for name, term in terms.items()},
        "gradients": {name: _mean_over_ranks(grad) for name, grad in zip(names, grads, strict=True)},
        "state": method.state_dict(),
    }


EXPANDER = {"expander_widths": [24, 16]}
CASES: dict[str, dict[str, Any]] = {
    "sie": {"name": "sie", **EXPANDER},
    "sie-drawn": {"name": "sie", **EXPANDER, "transformation": "drawn"},
    "cci": {"name": "cci"},
    "cci-robust": {"name": "cci", "form": "out", "positives": "cross_domain", "tau": 0.1},
}
BASELINES: dict[str, dict[str, Any]] = {
    "simclr": {"name": "simclr", **EXPANDER},
    "equimod": {"name": "equimod", **EXPANDER},
    "equimod-vicreg": {"name": "equimod", "loss": "vicreg", **EXPANDER},
    "augself": {"name": "augself", **EXPANDER, "regressor_width": 24},
    "sie-equivariant": {"name": "sie-equivariant", **EXPANDER},
    "supervised": {"name": "supervised", "transformation": "rotation+colour", "regressor_width": 24},
    "transitive": {"name": "transitive", **EXPANDER},
    "transitive-hard": {"name": "transitive", **EXPANDER, "hard_from_step": 0},
    "vicreg": {"name": "vicreg", **EXPANDER, "free_dims": 4},
}
"""On a backbone without BatchNorm: the cases above show its own, and what is left is that of the expanders."""
HEAD = {"hidden_widths": [24], "dim": 6}
RATES: dict[str, dict[str, Any]] = {
    "tcr": {"name": "tcr", **HEAD},
    "tcr-paper": {"name": "tcr", **HEAD, "form": "average", "agreement": "sum_abs_cosine", "half": False},
    "mcr2": {"name": "mcr2", **HEAD, "gamma1": 2.0},
    "mcr2-samples": {"name": "mcr2", **HEAD, "partition": "samples", "gamma2": 0.5},
    "mlc": {"name": "mlc", **HEAD, "eta_batch": 8, "gamma_weight": 0.05, "invariance": 0.1},
    "mlc-columns": {"name": "mlc", **HEAD, "eta_batch": 8, "columns": 5, "solver": "alternating"},
    "mlc-warm-up": {"name": "mlc", **HEAD, "warmup_steps": 1},
}
"""On a backbone without BatchNorm as well. Three classes and five columns leave four ranks unequal shares."""


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_ranks_do_what_one_process_does(name: str, num_ranks: int) -> None:
    expected = _step(CASES[name])
    assert all(grad.abs().max() > 0 for grad in expected["gradients"].values())
    for result in run_ranks(_step, CASES[name], world_size=num_ranks):
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-10)


def _baselines(names: list[str]) -> dict[str, Any]:
    return {name: _step((BASELINES | RATES)[name], backbone="test_efficientnet_gn") for name in names}


@pytest.mark.parametrize(
    ("names", "num_ranks"),
    [
        pytest.param([*BASELINES, *RATES], 2, id="2"),
        pytest.param(["simclr", "equimod", *RATES], 4, id="4", marks=pytest.mark.slow),
    ],
)
def test_ranks_do_what_one_process_does_in_every_baseline(names: list[str], num_ranks: int) -> None:
    """All of them in one go: joining takes longer than a step."""
    expected = _baselines(names)
    for name in names:
        assert all(grad.abs().max() > 0 for grad in expected[name]["gradients"].values()), name
    for result in run_ranks(_baselines, names, world_size=num_ranks):
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-10)


def test_no_method_is_left_out() -> None:
    assert {data["name"] for data in (CASES | BASELINES | RATES).values()} == set(METHODS)
