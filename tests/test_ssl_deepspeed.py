from pathlib import Path

import pytest
import torch
from ranks import run_ranks
from torch import Tensor
from trainees import batches, make_views, sie, with_gradients

from viewfold.errors import InvalidInput
from viewfold.ssl.checkpoint import Progress, latest_checkpoint, load_checkpoint, save_checkpoint
from viewfold.ssl.deepspeed_engine import DeepSpeedConfig, DeepSpeedEngine
from viewfold.ssl.dist import rank
from viewfold.ssl.engine import AbstractEngine, LocalEngine, OptimConfig
from viewfold.ssl.loop import checkpoint_hook, train

pytestmark = pytest.mark.heavy

STEPS = 4
OPTIM = OptimConfig(schedule="cosine", warmup_steps=2, gradient_clipping=5.0)


def zero(stage: int, precision: str = "fp32") -> DeepSpeedEngine:
    return DeepSpeedEngine(
        sie(seed=rank()),
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


def refusal(folder: Path) -> str:
    zero(1).save(folder)
    with pytest.raises(InvalidInput) as caught:
        zero(2).load(folder)
    return str(caught.value)


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


def test_another_partition_is_refused(tmp_path: Path) -> None:
    (message,) = run_ranks(refusal, tmp_path, world_size=1)
    assert message.startswith(f"{tmp_path}: written by 1 ranks with ZeRO-1, this run has 1 ranks with ZeRO-2")
