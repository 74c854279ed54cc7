from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from reference import rate_codes, rate_view
from subspace_trainees import TASK, built, small_head, views_of
from torch import Tensor
from torch.distributed import barrier
from trainees import with_gradients

from viewfold.config import parse
from viewfold.errors import InvalidInput
from viewfold.ssl.deepspeed_engine import DeepSpeedConfig, DeepSpeedEngine
from viewfold.ssl.dist import rank
from viewfold.ssl.engine import AbstractEngine, LocalEngine, OptimConfig
from viewfold.ssl.methods import MLC, MLCConfig
from viewfold.ssl.methods.mlc import draw_columns, membership, mlc_terms
from viewfold.ssl.subspace_head import SubspaceHead

Z, Z2, C = rate_view(), rate_view(phase=0.1), rate_codes()
CPP = MLCConfig(solver="alternating", eta_batch=12, gamma_weight=0.05)
KEPT = replace(TASK, head=small_head())
OPTIM = OptimConfig(weight_decay=0.01, gradient_clipping=5.0)
ETA: dict[str, Any] = {"eta_batch": 8}
STAGES: dict[str, Any] = {**ETA, "warmup_steps": 2, "columns": 3}


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack([*terms.values()]).sum()


def trained(engine: AbstractEngine, steps: Sequence[int]) -> list[set[str]]:
    """Names of the terms of each step; each rank has views of its own."""
    names = []
    for step in steps:
        outcome = engine(views_of(seed=10 * rank() + step))
        engine.backward(total(outcome.terms))
        engine.step()
        names.append(set(outcome.terms))
    return names


def head_of(engine: LocalEngine) -> SubspaceHead:
    assert isinstance(engine.method.head, SubspaceHead)
    return engine.method.head


def test_cpp_has_the_tabulated_loss() -> None:
    terms, facts = mlc_terms(Z[None], C[None], CPP)
    assert (terms["expansion"] + terms["compression"]).item() == pytest.approx(-1.409496289601, abs=1e-11)
    assert terms["membership"].item() == pytest.approx(0.129576196642, abs=1e-11)
    assert total(terms).item() == pytest.approx(-1.279920092958, abs=1e-11)
    assert facts["rate_reduction"].item() == pytest.approx(1.409496289601, abs=1e-11)
    assert facts["gamma_norm_sq"].item() == pytest.approx(5.183047865687, abs=1e-11)
    assert facts["z_rank"].item() == 4


def test_two_views_have_the_tabulated_rates() -> None:
    """Equation 6: the views' features are averaged and scaled to length 1, their memberships averaged."""
    config = replace(CPP, half=False, eps_sq=0.5, gamma_weight=0.0)
    terms, _ = mlc_terms(torch.stack([Z, Z2]), torch.stack([C, Z2]), config)
    assert terms["expansion"].item() == pytest.approx(-4.961182982030, abs=1e-11)
    assert terms["compression"].item() == pytest.approx(3.657462147624, abs=1e-11)
    assert total(terms).item() == pytest.approx(-1.303720834406, abs=1e-11)


def test_losses_stay_float32_exact_within_bfloat16_autocast() -> None:
    z, codes = torch.stack([Z, Z2]).float(), torch.stack([C, Z2]).float()
    exact = mlc_terms(z, codes, CPP)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(mlc_terms(z, codes, CPP), exact, rtol=0, atol=0)
    wide = mlc_terms(z.double(), codes.double(), CPP)[0]
    assert total(exact[0]).item() == pytest.approx(total(wide).item(), rel=1e-5)


def test_drawn_columns_estimate_the_rate_without_bias() -> None:
    """Every cluster alone, weighted by its column sum, and all that can be drawn at once: the rate of all."""
    views, codes = Z[None], C[None]
    every = mlc_terms(views, codes, CPP)[0]["compression"]
    alone = torch.stack([mlc_terms(views, codes, CPP, columns=torch.tensor([j]))[0]["compression"] for j in range(12)])
    weight = membership(codes, CPP).sum(0) / 12
    torch.testing.assert_close((weight * alone).sum(), every)
    torch.testing.assert_close(mlc_terms(views, codes, CPP, columns=torch.arange(12))[0]["compression"], every)


def test_columns_are_drawn_anew_for_each_step_and_alike_for_the_same() -> None:
    draws = [draw_columns(16, 100, step=step) for step in (0, 1, 0)]
    first, second, again = (draw.tolist() for draw in draws if draw is not None)
    assert first == again == sorted(set(first))
    assert first != second
    assert len(first) == 16
    assert draw_columns(0, 100, step=0) is draw_columns(100, 100, step=0) is None


def test_codes_are_the_features_when_the_warm_up_ends() -> None:
    engine = LocalEngine(built("mlc", **STAGES), OPTIM, num_steps=4)
    before = head_of(engine).feature.weight.clone()
    assert trained(engine, range(2)) == [{"expansion", "codes"}] * 2
    head = head_of(engine).eval()
    assert not torch.equal(head.feature.weight, before)
    z, c = head(torch.randn(5, 256))
    assert torch.equal(z, c)
    head.train()
    assert trained(engine, range(2, 4)) == [{"expansion", "compression"}] * 2
    assert not torch.equal(*(layer.weight for layer in (head.feature, head.cluster) if layer is not None))


def test_a_warm_up_gives_the_trunk_the_gradient_of_the_features_alone() -> None:
    views, grads = views_of(), []
    for heads in ("one", "two"):
        method = built("mlc", **STAGES, heads=heads)
        assert isinstance(method.head, SubspaceHead)
        loss = total(method(views).terms)
        grads.append(
            (loss, *torch.autograd.grad(loss, [*method.head.trunk.parameters(), *method.head.feature.parameters()]))
        )
    torch.testing.assert_close(*grads, rtol=0, atol=0)


def under_zero(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Weights when the warm-up has ended and at the end, of engines that keep copies of shares of them."""
    weights, parts = {}, {1: 3, 3: 1}  # cut and resumed by the other kind
    for stage, other in parts.items():
        engine = DeepSpeedEngine(built("mlc", **STAGES), OPTIM, DeepSpeedConfig(zero_stage=stage), num_steps=4)  # type: ignore[arg-type]
        trained(engine, range(2))
        weights[f"warm {stage}"] = engine.weights()
        if rank() == 0:
            (folder / str(stage)).mkdir()
        barrier()
        engine.save(folder / str(stage))
        barrier()
        engine = DeepSpeedEngine(built("mlc", **STAGES), OPTIM, DeepSpeedConfig(zero_stage=other), num_steps=4)  # type: ignore[arg-type]
        engine.load(folder / str(stage))
        trained(engine, range(2, 4))
        weights[f"end {stage}"] = engine.weights()
    plain = LocalEngine(built("mlc", **STAGES), OPTIM, num_steps=4)
    trained(plain, range(4))
    frozen = DeepSpeedEngine(built("tcr", frozen_encoder=True), OPTIM, DeepSpeedConfig(zero_stage=3), num_steps=4)
    trained(frozen, range(2))
    return weights | {"plain": plain.weights(), "frozen": frozen.weights()}


@pytest.mark.heavy
def test_zero_warms_up_and_goes_on_as_the_plain_engine_does(tmp_path: Path) -> None:
    weights, _ = run_ranks(under_zero, tmp_path, world_size=2)
    for stage in (1, 3):
        warm = weights[f"warm {stage}"]
        torch.testing.assert_close(warm["head.cluster.weight"], warm["head.feature.weight"], rtol=1e-6, atol=1e-9)
        assert weights[f"end {stage}"]["steps_begun"].item() == 4
        ends = (with_gradients(weights[name]) for name in (f"end {stage}", "plain"))
        torch.testing.assert_close(*ends, rtol=0, atol=3e-4)  # they moved by up to 4e-3
    before = built("tcr").state_dict()
    changed = {name for name, value in weights["frozen"].items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("head.") for name in changed)


def test_a_run_that_was_cut_draws_and_warms_up_as_one_that_was_not(tmp_path: Path) -> None:
    whole = LocalEngine(built("mlc", **STAGES), OPTIM, num_steps=4)
    trained(whole, range(4))
    done = 0
    for until in (1, 3, 4):  # cut within the warm-up and after it
        engine = LocalEngine(built("mlc", **STAGES), OPTIM, num_steps=4)
        if done:
            engine.load(tmp_path / str(done))
        trained(engine, range(done, until))
        done = until
        (tmp_path / str(done)).mkdir()
        engine.save(tmp_path / str(done))
    torch.testing.assert_close(engine.weights(), whole.weights(), rtol=0, atol=0)


def test_evaluation_counts_no_step() -> None:
    method = built("mlc", **STAGES).eval()
    method(views_of())
    assert isinstance(method, MLC)
    assert method.steps_begun.item() == 0


@pytest.mark.parametrize("heads", ["one", "two"])
def test_clusters_begin_with_the_codes_that_were_kept(heads: Any) -> None:
    kept = small_head(heads=heads)
    method = built("mlc", replace(TASK, head=kept), **ETA)
    assert isinstance(method.head, SubspaceHead)
    assert method.head.cluster is not None
    source = kept.feature if kept.cluster is None else kept.cluster
    assert torch.equal(method.head.cluster.weight, source.weight)
    assert torch.equal(method.head.feature.weight, kept.feature.weight)


def test_one_head_is_its_own_codes() -> None:
    method = built("mlc", KEPT, heads="one", **ETA)
    assert isinstance(method.head, SubspaceHead)
    assert method.head.cluster is None
    torch.autograd.backward(total(method(views_of()).terms))
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in method.head.parameters())


@pytest.mark.parametrize("num_views", [1, 3])
def test_any_number_of_views_will_do(num_views: int) -> None:
    outcome = built("mlc", replace(KEPT, num_views=num_views), **ETA)(views_of(num_views))
    facts = {name: value.item() for name, value in outcome.facts.items()}
    assert 0 <= facts["rate_reduction"] <= facts["rate"]
    assert {"rate_clusters", "gamma_diagonal", "gamma_entropy", "gamma_column_error"} <= facts.keys()
    assert outcome.features["all"].shape == (num_views * 8, 256)


def test_invariance_pulls_views_together() -> None:
    views = views_of()
    plain, pulled = (built("mlc", KEPT, **ETA, invariance=weight)(views).terms for weight in (0.0, 2.0))
    assert pulled.keys() - plain.keys() == {"invariance"}
    assert -2 <= pulled["invariance"].item() < 0


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        (TASK, {}, r"none was kept with this encoder; start .* tcr trained, or set method.warmup_steps=50"),
        (KEPT, {"dim": 8}, "kept with a subspace head of dim 6, method mlc has 8"),
        (replace(KEPT, num_views=1), {"invariance": 1}, "invariance compares the views of a sample and there is one"),
    ],
)
def test_what_cannot_be_trained_is_refused(task: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        built("mlc", task, **settings)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"solver": "alternating", "iterations": 4}, "iterations must be odd with solver: alternating, got 4"),
        ({"solver": "implicit", "iterations": 4}, "iterations has no effect with solver: implicit"),
        ({"eta": 0}, "eta must be above 0"),
        ({"kernel": "rbf"}, "'abs' or 'inner'"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse(MLCConfig, wrong)
