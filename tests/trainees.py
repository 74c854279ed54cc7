"""A small SIE with BatchNorm and the batches to train it: what the tests of engines, loop and checkpoints share."""

import torch
from torch import Tensor

from viewfold.ssl.dist import rank, world_size
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing
from viewfold.ssl.methods import SIE, SIEConfig, Task
from viewfold.values import Batch, Views

SIZE = 16
GLOBAL_BATCH = 8
LATENTS = ("latent_0", "latent_1", "latent_2")


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
