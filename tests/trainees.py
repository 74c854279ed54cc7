"""A small SIE with BatchNorm and the batches to train it: what the tests of engines, loop and checkpoints share."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from viewfold.ssl.checkpoint import Progress, latest_checkpoint, load_checkpoint, save_checkpoint
from viewfold.ssl.dist import rank, world_size
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing
from viewfold.ssl.engine import AbstractEngine, OptimConfig
from viewfold.ssl.loop import train
from viewfold.ssl.methods import SIE, SIEConfig, Task
from viewfold.values import Batch, Views

SIZE = 16
GLOBAL_BATCH = 8
LATENTS = ("latent_0", "latent_1", "latent_2")
LAST_STEP = 6
ROUTE = OptimConfig(schedule="cosine", warmup_steps=2, gradient_clipping=5.0)


def sie(seed: int = 0) -> SIE:
    """1.2 M weights; ranks that pass different seeds start different, as if nobody had agreed on one."""
    torch.manual_seed(seed)
    encoder = Encoder(EncoderConfig(equivariant_dim=64, preprocessing=Preprocessing(image_size=SIZE)))
    return SIE.build(SIEConfig(expander_widths=(32, 16)), encoder, Task(LATENTS, num_labels=0))


def batches(*, start: int = 0, steps: int = 100) -> list[Batch]:
    """This rank's rows of the global batches `start` to `steps`: a pure function of the step."""
    return [_batch(step) for step in range(start, steps)]


def make_views(batch: Batch) -> Views:
    return Views(batch.images / 255, batch.latents, LATENTS, batch.label, batch.domain, batch.group)


def with_gradients(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """All but the biases before a BatchNorm: their gradient is only rounding, and Adam makes whole steps of it."""
    return {name: value for name, value in weights.items() if not name.endswith("variant.0.bias")}


@dataclass
class Leg:
    """What one rank saw of the part of a training that lies between two checkpoints."""

    found: dict[str, Tensor]
    """The state that it started from, as it lies in the engine; empty at the start of the journey."""
    left: dict[str, Tensor]
    losses: list[float]


def travel(engine: AbstractEngine, folder: Path, until: int) -> Leg:
    """Train from the last checkpoint in `folder` to step `until`, and leave one there. A call of all ranks."""
    progress, losses = Progress(), list[float]()
    latest = latest_checkpoint(folder)
    if latest is not None:
        progress = load_checkpoint(latest, engine)
    found = {} if latest is None else whole_state(engine)
    train(
        engine,
        batches(start=progress.step),
        make_views,
        progress=progress,
        steps=until,
        hooks=[lambda step: losses.append(sum(term.item() for term in step.outcome.terms.values()))],
    )
    save_checkpoint(folder, engine, progress)
    return Leg(found, whole_state(engine), losses)


def whole_state(engine: AbstractEngine) -> dict[str, Tensor]:
    """Weights, buffers, moments and step counts as the next step will use them, copied. A call of all ranks."""
    return {name: piece.whole().detach().cpu().clone() for name, piece in engine.pieces().items()}


def check_journey(legs: list[list[Leg]], unchanged: list[Leg]) -> None:
    """Each leg found, bit for bit, what the one before left, and the losses are those of a run that never changed.

    They may differ by what float32 sums in another order do: 1e-6 of the loss (largest seen: 9e-8).
    """
    for before, after in pairwise(legs):
        left, found = before[0].left, after[0].found
        assert left.keys() == found.keys()
        assert {name.partition("/")[0] for name in left} == {"weights", "step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(left[name], found[name]) for name in left)
    losses = [loss for leg in legs for loss in _of_all_ranks(leg)]
    torch.testing.assert_close(losses, _of_all_ranks(unchanged), rtol=1e-6, atol=0)


def _of_all_ranks(ranks: list[Leg]) -> list[float]:
    return [sum(values) / len(ranks) for values in zip(*(leg.losses for leg in ranks), strict=True)]


def _batch(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    images = torch.randint(256, (2, GLOBAL_BATCH, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    latents = torch.rand(2, GLOBAL_BATCH, 3, generator=generator) - 0.5
    none = torch.full((GLOBAL_BATCH // world_size(),), -1)
    return Batch(
        images=_mine(images),
        keys=[f"tiny-000000/{row}" for row in range(len(none))],
        rows=none,
        epochs=none * 0 + step // 4,
        members=none.expand(2, -1),
        label=none,
        domain=none,
        group=none,
        latents=_mine(latents),
    )


def _mine(rows: Tensor) -> Tensor:
    return rows.chunk(world_size(), dim=1)[rank()]
