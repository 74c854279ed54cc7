from dataclasses import replace
from typing import Any

import pytest
import torch
from reference import rate_view
from subspace_trainees import TASK, built, small_head, views_of
from torch import Tensor

from viewfold.config import parse
from viewfold.errors import InvalidInput
from viewfold.ssl.engine import LocalEngine, OptimConfig
from viewfold.ssl.methods import TCR, TCRConfig
from viewfold.ssl.methods.subspace import batch_rank
from viewfold.ssl.methods.tcr import tcr_terms, view_agreement, views_rate

Z, Z2 = rate_view(), rate_view(phase=0.1)
VIEWS = torch.stack([Z, Z2])


def total(config: TCRConfig, views: Tensor = VIEWS) -> float:
    return sum(term.item() for term in tcr_terms(views, config)[0].values())


def test_nmce_has_the_tabulated_loss() -> None:
    terms, facts = tcr_terms(VIEWS, TCRConfig())
    assert terms["expansion"].item() == pytest.approx(-3.970242632360, abs=1e-11)
    assert terms["invariance"].item() == pytest.approx(-30 * 0.988201132335, abs=1e-10)
    assert total(TCRConfig()) == pytest.approx(-33.616276602420, abs=1e-10)
    assert total(TCRConfig(), VIEWS.float()) == pytest.approx(-33.616276602420, rel=1e-6)
    assert facts["rate"].item() == pytest.approx(3.970242632360, abs=1e-11)
    assert facts["cholesky_fallbacks"].item() == 0


@pytest.mark.parametrize(("form", "rate"), [("average", 4.943760617794), ("unit_average", 4.961182982030)])
def test_averaged_views_have_the_tabulated_rates(form: Any, rate: float) -> None:
    assert views_rate(VIEWS, form=form, eps_sq=0.5, half=False).nats.item() == pytest.approx(rate, abs=1e-11)


def test_the_two_conventions_are_one_loss_up_to_a_factor() -> None:
    assert view_agreement(VIEWS, kind="sum_abs_cosine").item() == pytest.approx(11.858413588024, abs=1e-11)
    code = TCRConfig(form="average")
    paper = replace(code, half=False, agreement="sum_abs_cosine", invariance=60 / len(Z))
    assert total(paper) == pytest.approx(2 * total(code), abs=1e-10)


@pytest.mark.parametrize("form", ["average", "mean", "unit_average"])
def test_no_view_is_forgotten(form: Any) -> None:
    """An accumulator that is overwritten leaves the rate of the last view alone."""
    views = VIEWS.clone().requires_grad_()
    torch.autograd.backward(tcr_terms(views, TCRConfig(form=form, invariance=0))[0]["expansion"])
    assert views.grad is not None
    assert views.grad.norm(dim=(1, 2)).min() > 0.1
    assert total(TCRConfig(form=form), VIEWS.flip(0)) == pytest.approx(total(TCRConfig(form=form)), abs=1e-10)


def test_views_of_many_agree_as_their_pairs_do() -> None:
    views = torch.stack([Z, Z2, rate_view(phase=0.3)])
    pairs = [view_agreement(views[[i, j]], kind="mean_cosine") for i, j in [(0, 1), (0, 2), (1, 2)]]
    torch.testing.assert_close(view_agreement(views, kind="mean_cosine"), torch.stack(pairs).mean())


def test_rank_of_the_rows_is_the_tabulated_one_and_survives_numbers_that_are_none() -> None:
    assert batch_rank(Z).item() == 4
    assert batch_rank(torch.eye(5)).item() == 5
    assert batch_rank(torch.full((3, 4), torch.nan)).isfinite()


@pytest.mark.parametrize("name", ["tcr", "mcr2", "mlc"])
def test_a_frozen_encoder_stays_as_it_is_bit_for_bit(name: str) -> None:
    method = built(name, replace(TASK, head=small_head()), frozen_encoder=True, eps_sq=0.2)
    engine = LocalEngine(method, OptimConfig(weight_decay=0.1), num_steps=3)
    before = {key: value.clone() for key, value in engine.method.state_dict().items()}
    for seed in range(3):
        engine.backward(torch.stack([*engine(views_of(seed=seed)).terms.values()]).sum())
        engine.step()
    after = engine.method.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert not any(key.startswith("encoder.") for key in changed)
    assert {f"head.{key}" for key, _ in engine.method.head.named_parameters()} - changed <= {"head.trunk.0.bias"}  # type: ignore[union-attr]
    assert "head.trunk.1.running_mean" in changed


def test_training_goes_on_from_the_head_that_was_kept() -> None:
    kept = small_head(heads="two")
    method = built("tcr", replace(TASK, head=kept))
    assert isinstance(method, TCR)
    assert method.head is not kept
    state = method.head.state_dict()
    assert state.keys() == {name for name in kept.state_dict() if not name.startswith("cluster")}
    assert all(torch.equal(value, kept.state_dict()[name]) for name, value in state.items())


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        ({"dim": 8}, {"head": small_head()}, "kept with a subspace head of dim 6, method tcr has 8"),
        ({"part": "equivariant"}, {}, "reads the equivariant part of the features and it is empty"),
        ({}, {"num_views": 1}, "method tcr compares two views or more, got 1"),
    ],
)
def test_what_cannot_be_trained_is_refused(settings: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        built("tcr", replace(TASK, **changes), **settings)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"eps_sq": 0}, "eps_sq must be above 0"),
        ({"invariance": -1}, "invariance must lie"),
        ({"form": "median"}, "'average', 'mean' or 'unit_average'"),
        ({"hidden_widths": [0]}, "hidden_widths must be widths of at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse(TCRConfig, wrong)
