from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from ranks import run_ranks
from torch import Tensor
from trainees import LAST_STEP, ROUTE, Leg, batches, check_journey, make_views, sie, travel, whole_state, with_gradients

from viewfold.ssl.checkpoint import Progress, latest_checkpoint, load_checkpoint, save_checkpoint
from viewfold.ssl.deepspeed_engine import DeepSpeedConfig, DeepSpeedEngine
from viewfold.ssl.dist import rank
from viewfold.ssl.engine import AbstractEngine, LocalEngine, OptimConfig
from viewfold.ssl.loop import checkpoint_hook, train

pytestmark = pytest.mark.heavy

Stage = Literal[0, 1, 2, 3, "plain"]
ROUTES: dict[str, tuple[Stage, Stage, Stage]] = {
    "ZeRO-0": (0, 0, 0),
    "ZeRO-1": (1, 1, 1),
    "ZeRO-2": (2, 2, 2),
    "ZeRO-3": (3, 3, 3),
    "from one stage to another": (1, 3, 2),
    "from one engine to another": ("plain", 2, "plain"),
}
"""What runs the first leg, on two ranks, the second, on one, and the third, on two again."""

STEPS = 4
OPTIM = OptimConfig(schedule="cosine", warmup_steps=2, gradient_clipping=5.0)


def zero(stage: int, precision: str = "fp32", seed: int = 0) -> DeepSpeedEngine:
    return DeepSpeedEngine(
        sie(seed=seed + rank()),
        OPTIM,
        DeepSpeedConfig(zero_stage=stage, precision=precision),  # type: ignore[arg-type]
        num_steps=STEPS,
    )


def trained(engine: AbstractEngine) -> dict[str, Tensor]:
    train(engine, batches(), make_views, progress=Progress(), steps=STEPS)
    return engine.weights()


def every_engine() -> dict[str, dict[str, Tensor]]:
    """Weights after the same steps; one process imports DeepSpeed once."""
    engines = {f"ZeRO-{stage}": trained(zero(stage)) for stage in range(4)}
    return engines | {"plain": trained(LocalEngine(sie(), OPTIM, num_steps=STEPS))}


def resumed_and_whole(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of a run that was cut after two steps and continued by another engine, and of one that was not."""
    engine = zero(1)
    hook = checkpoint_hook(every=2, save=lambda progress: save_checkpoint(folder, engine, progress))
    train(engine, batches(), make_views, progress=Progress(), steps=2, hooks=[hook])
    engine = zero(1)
    latest = latest_checkpoint(folder)
    assert latest is not None
    progress = load_checkpoint(latest, engine)
    train(engine, batches(start=progress.step), make_views, progress=progress, steps=STEPS)
    return engine.weights(), trained(zero(1))


def half_precision() -> tuple[list[float], set[torch.dtype]]:
    engine, losses = zero(1, "bf16"), []
    train(
        engine,
        batches(steps=1) * STEPS,
        make_views,
        progress=Progress(),
        steps=STEPS,
        hooks=[lambda step: losses.append(sum(term.item() for term in step.outcome.terms.values()))],
    )
    return losses, {value.dtype for value in engine.weights().values() if value.is_floating_point()}


def engine_of(stage: Stage) -> AbstractEngine:
    method = sie(seed=rank())
    if stage == "plain":
        return LocalEngine(method, ROUTE, num_steps=LAST_STEP)
    return DeepSpeedEngine(method, ROUTE, DeepSpeedConfig(zero_stage=stage), num_steps=LAST_STEP)


def legs_of(root: Path, stages: dict[str, Stage], until: int) -> dict[str, Leg]:
    """One leg of several journeys, in processes that import DeepSpeed once."""
    return {name: travel(engine_of(stage), root / name, until) for name, stage in stages.items()}


@pytest.fixture(scope="module")
def journeys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[list[Leg]], list[Leg]]]:
    """For each route its legs on 2, 1 and 2 ranks, and the run that its first engine makes on 2 ranks alone."""
    changed, unchanged = tmp_path_factory.mktemp("changed"), tmp_path_factory.mktemp("unchanged")
    legs = [
        run_ranks(legs_of, changed, {name: stages[leg] for name, stages in ROUTES.items()}, until, world_size=size)
        for leg, (until, size) in enumerate(((2, 2), (4, 1), (6, 2)))
    ]
    whole = run_ranks(legs_of, unchanged, {name: stages[0] for name, stages in ROUTES.items()}, LAST_STEP)
    return {name: ([[of[name] for of in leg] for leg in legs], [of[name] for of in whole]) for name in ROUTES}


def test_every_stage_on_two_ranks_equals_the_plain_engine() -> None:
    weights, nothing = run_ranks(every_engine)
    assert not any(nothing.values())
    for stage in range(4):
        one, other = with_gradients(weights[f"ZeRO-{stage}"]), with_gradients(weights["plain"])
        torch.testing.assert_close(one, other, rtol=0, atol=3e-4)  # they moved by up to 4e-3


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_cut_and_resumed_equals_never_stopped(tmp_path: Path, num_ranks: int) -> None:
    resumed, whole = run_ranks(resumed_and_whole, tmp_path, world_size=num_ranks)[0]
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_bfloat16_learns_and_keeps_float32_weights() -> None:
    ((losses, dtypes),) = run_ranks(half_precision, world_size=1)
    assert losses[-1] < losses[0]
    assert dtypes == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES)
def test_other_ranks_and_stages_go_on_as_if_nothing_had_changed(
    journeys: dict[str, tuple[list[list[Leg]], list[Leg]]], route: str
) -> None:
    check_journey(*journeys[route])


def read_by_every_stage(folder: Path) -> list[dict[str, Tensor]]:
    states = []
    for stage in range(1, 4):
        engine = zero(stage)
        load_checkpoint(folder, engine)
        states.append(whole_state(engine))
    return states


@pytest.mark.slow
def test_shares_that_do_not_come_out_even_hold_all(tmp_path: Path) -> None:
    written, *_ = run_ranks(legs_of, tmp_path, {"plain": "plain"}, 2, world_size=1)
    expected = written["plain"].left
    assert any(value.numel() % 3 for value in expected.values())
    states, *_ = run_ranks(read_by_every_stage, tmp_path / "plain" / "step-2", world_size=3)
    for state in states:
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], expected[name]) for name in expected)


def from_the_start(folder: Path, *, used: bool) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """The state that each engine reads from before the first step, and what two steps make of it; `used` engines have
    taken one before."""
    states = []
    for engine in (LocalEngine(sie(), ROUTE, num_steps=STEPS), *map(zero, range(4))):
        if used:
            train(engine, batches(), make_views, progress=Progress(), steps=1)
        progress = load_checkpoint(folder / "step-0", engine)
        read = whole_state(engine)
        train(engine, batches(), make_views, progress=progress, steps=2)
        states.append((read, whole_state(engine)))
    return states


def used_and_new(folder: Path) -> tuple[Any, Any]:
    save_checkpoint(folder, zero(3, seed=1), Progress())
    return from_the_start(folder, used=True), from_the_start(folder, used=False)


def test_an_engine_can_be_taken_back_to_before_its_first_step(tmp_path: Path) -> None:
    ((used, new),) = run_ranks(used_and_new, tmp_path, world_size=1)
    start = used[0][0]
    assert all(name.startswith("weights/") for name in start)
    for (read, after), (_, expected) in zip(used, new, strict=True):
        assert read.keys() == start.keys()
        assert all(torch.equal(read[name], start[name]) for name in start)
        assert len(after) > len(start), "moments have begun again"
        assert all(torch.equal(after[name], expected[name]) for name in expected)
