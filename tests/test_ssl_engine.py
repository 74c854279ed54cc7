from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ranks import run_ranks
from torch import Tensor
from trainees import LAST_STEP, ROUTE, Leg, batches, check_journey, make_views, sie, travel

from viewfold.config import parse
from viewfold.errors import InvalidInput
from viewfold.ssl.dist import rank
from viewfold.ssl.engine import LocalEngine, OptimConfig, learning_rate

FOUR = OptimConfig(lr=0.4, warmup_steps=4)


def loss_and_gradients(seed: int = 0) -> tuple[float, dict[str, Tensor]]:
    """This rank's loss and the averaged gradients of the first step; every rank starts from weights of its own."""
    engine = LocalEngine(sie(seed=seed + rank()), OptimConfig(), num_steps=1)
    outcome = engine(make_views(batches(steps=1)[0]))
    loss = torch.stack(list(outcome.terms.values())).sum()
    engine.backward(loss)
    return loss.item(), {name: p.grad for name, p in engine.method.named_parameters() if p.grad is not None}


def test_constant_rate_after_linear_warmup() -> None:
    assert [learning_rate(FOUR, step, 10) for step in (0, 1, 3, 4, 9)] == pytest.approx([0.1, 0.2, 0.4, 0.4, 0.4])


def test_cosine_goes_from_the_peak_to_zero() -> None:
    cosine = OptimConfig(lr=0.4, warmup_steps=4, schedule="cosine")
    assert [learning_rate(cosine, step, 12) for step in (3, 4, 8, 12)] == pytest.approx([0.4, 0.4, 0.2, 0.0])


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_weights_follow_torchs_own_optimizer(name: str) -> None:
    optim = parse(OptimConfig, {"optimizer": name, "weight_decay": 0.1, "lr": 1e-3})
    engine, twin = LocalEngine(sie().double(), optim, num_steps=3), sie().double().train()
    kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    reference = kind(twin.parameters(), lr=1e-3, weight_decay=0.1, fused=False, foreach=False)
    for views in map(make_views, batches(steps=3)):
        assert views.params is not None
        views = replace(views, images=views.images.double(), params=views.params.double())
        engine.backward(torch.stack(list(engine(views).terms.values())).sum())
        engine.step()
        torch.autograd.backward(torch.stack(list(twin(views).terms.values())).sum())
        reference.step()
        reference.zero_grad()
    torch.testing.assert_close(engine.weights(), dict(twin.state_dict()), rtol=0, atol=1e-8)


def test_gradient_is_clipped_to_the_norm() -> None:
    engine = LocalEngine(sie(), OptimConfig(gradient_clipping=0.5, lr=1e-3), num_steps=1)
    engine.backward(1000 * torch.stack(list(engine(make_views(batches(steps=1)[0])).terms.values())).sum())
    clipped: list[Tensor] = []
    hook = engine._optimizer.register_step_pre_hook(
        lambda optimizer, *_: clipped.extend(p.grad for p in optimizer.param_groups[0]["params"])
    )
    engine.step()
    hook.remove()
    assert torch.cat([g.flatten() for g in clipped]).norm().item() == pytest.approx(0.5, rel=1e-3)


def test_two_ranks_equal_one() -> None:
    loss, gradients = loss_and_gradients()
    (loss_0, gradients_0), (loss_1, gradients_1) = run_ranks(loss_and_gradients)
    assert (loss_0 + loss_1) / 2 == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(gradients_0, gradients, rtol=1e-3, atol=1e-4)
    assert all(torch.equal(gradients_0[name], gradients_1[name]) for name in gradients)


def leg(folder: Path, until: int) -> Leg:
    return travel(LocalEngine(sie(seed=rank()), ROUTE, num_steps=LAST_STEP), folder, until)


@pytest.mark.slow
def test_another_number_of_ranks_goes_on_as_if_nothing_had_changed(tmp_path: Path) -> None:
    unchanged = run_ranks(leg, tmp_path / "unchanged", LAST_STEP)
    legs = [run_ranks(leg, tmp_path / "changed", until, world_size=size) for until, size in ((2, 2), (4, 1), (6, 2))]
    check_journey(legs, unchanged)


@pytest.mark.parametrize("bad", [{"lr": 0}, {"weight_decay": -1}, {"warmup_steps": -1}, {"gradient_clipping": -1}])
def test_configuration_out_of_range_names_the_field(bad: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(bad))):
        parse(OptimConfig, bad)
