"""What is drawn teaches: SIE follows it on views of one object, and is asked about images of it that it never saw."""

import copy
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewfold.augment import AffineConfig, AffinePolicy, make_views, param_names, relative_names
from viewfold.jobs.data import locate
from viewfold.pipeline.images import read_images
from viewfold.pipeline.indexer import index_shards
from viewfold.ssl.checkpoint import Progress
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing
from viewfold.ssl.engine import LocalEngine, OptimConfig
from viewfold.ssl.evaluate import bootstrap, variance_weighted_r2
from viewfold.ssl.loop import train
from viewfold.ssl.methods import SIE, SIEConfig, Task
from viewfold.values import Batch, Views

pytestmark = pytest.mark.slow

POLICY = AffinePolicy(affine=AffineConfig(rotation_rad=0.5, log_scale=0.2, shear_rad=0, translate_ratio=0.1))
NAMES = relative_names(param_names(POLICY))
STEPS, SEED = 400, 0


@dataclass(frozen=True)
class Learned:
    """An encoder before and after its training on `seen` images of an object, in a method that predicts."""

    untrained: Encoder
    method: SIE
    seen: Tensor
    held_out: Tensor


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """Twelve renderings of the first shipped object from as many sides: eight are seen, four held out."""
    manifest = index_shards(locate(("demo:objects-train",)), tmp_path_factory.mktemp("objects"))
    (stored,) = read_images(manifest, [0], image_size=32, batch_size=12)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    seen, held_out = stored.images[order[4:]], stored.images[order[:4]]
    torch.manual_seed(SEED)
    preprocessing = Preprocessing(image_size=32, grey=True, standardise="image")
    encoder = Encoder(EncoderConfig(equivariant_dim=128, preprocessing=preprocessing))
    untrained = copy.deepcopy(encoder)
    # With one object the invariant part is soon done; the prediction gets the weight.
    config = SIEConfig(transformation="drawn", expander_widths=(128, 64), equivariance_factor=2.0)
    method = SIE.build(config, encoder, Task((), num_labels=0, relative_names=NAMES))
    optim = OptimConfig(lr=3e-3, schedule="cosine", warmup_steps=20)
    engine = LocalEngine(method, optim, num_steps=STEPS)
    batches = (batch_of(seen, 64, epoch) for epoch in range(STEPS))
    train(engine, batches, partial(make_views, policy=POLICY, seed=SEED), progress=Progress(), steps=STEPS)
    return Learned(untrained, method.eval(), seen, held_out)


def batch_of(images: Tensor, size: int, epoch: int) -> Batch:
    """The images in turn, each time under another key; the group is the image."""
    rows = torch.arange(size) % len(images)
    none = torch.full((size,), -1)
    return Batch(
        images=images[rows][None],
        keys=[f"object/{i}" for i in range(size)],
        rows=rows,
        epochs=torch.full((size,), epoch),
        members=rows[None],
        label=none,
        domain=none,
        group=rows,
        latents=None,
    )


def fresh_views(images: Tensor, size: int, epoch: int) -> Views:
    """Views that no training has seen."""
    return make_views(batch_of(images, size, epoch), POLICY, seed=SEED + 1)


def ridge_prediction(encoder: Encoder, seen: Views, asked: Views) -> Tensor:
    """What a linear probe, fitted to `seen`, makes of the equivariant features of both views of `asked`."""
    x, q = (torch.cat([encoder.encode(view).equivariant for view in v.images], dim=1).double() for v in (seen, asked))
    assert seen.relative is not None
    target = seen.relative.double()
    deviation, mean = torch.std_mean(x, dim=0)
    x, q = (x - mean) / deviation.clamp(min=1e-6), (q - mean) / deviation.clamp(min=1e-6)
    gram = x.T @ x / len(x) + 0.1 * torch.eye(x.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(gram, x.T @ (target - target.mean(0)) / len(x))
    predicted: Tensor = q @ weight + target.mean(0)
    return predicted


def test_features_tell_what_was_drawn_on_images_never_seen(learned: Learned) -> None:
    seen, asked = fresh_views(learned.seen, 1024, 0), fresh_views(learned.held_out, 512, 1)
    assert asked.relative is not None
    target, image = asked.relative.numpy(), asked.group.numpy()
    before = ridge_prediction(learned.untrained, seen, asked).numpy()
    after = ridge_prediction(learned.method.encoder, seen, asked).numpy()
    r2 = bootstrap(partial(variance_weighted_r2, target, after), image)
    assert r2.low is not None
    assert r2.low > 0.5  # chance is 0
    assert r2.value > variance_weighted_r2(target, before) + 0.05
    for name in ("rotation_sin", "log_scale_x"):
        column = [NAMES.index(name)]
        of_column = bootstrap(partial(variance_weighted_r2, target[:, column], after[:, column]), image)
        assert of_column.low is not None
        assert of_column.low > 0


@torch.no_grad()
def test_predictor_needs_the_vector_that_was_drawn_on_images_never_seen(learned: Learned) -> None:
    views, method = fresh_views(learned.held_out, 512, 2), learned.method
    assert views.relative is not None
    part = method.encoder.parts["equivariant"]
    x, y = (method.head.embed(method.encoder(view)[:, part]) for view in views.images)
    wrong = views.relative.roll(len(learned.held_out), dims=0)  # that of another pair of the same image
    guesses = {"true": method.head.predict(x, views.relative), "wrong": method.head.predict(x, wrong), "still": x}
    error = {name: (guess - y).square().sum(1).double().numpy() for name, guess in guesses.items()}
    for other, share in (("wrong", 0.5), ("still", 0.2)):
        saved = bootstrap(partial(saved_share, error["true"], error[other]), views.group.numpy())
        assert saved.low is not None
        assert saved.low > share


def saved_share(error: NDArray[np.float64], other: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """The part of the squared error of another guess that this one does not make."""
    return 1 - float(np.sum(weights * error) / np.sum(weights * other))
