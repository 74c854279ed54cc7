"""Training on mined pairs: the ranking of a batch, on any ranks and over a cut; other methods on the same pairs."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from mined import chain, tracks, write_pairs
from ranks import run_ranks
from tiny import write_objects
from torch import Tensor

from viewfold.augment import POLICIES, make_views
from viewfold.config import choose
from viewfold.errors import InvalidInput
from viewfold.pipeline.indexer import index_shards
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.partners import Partners
from viewfold.pipeline.stream import stream_batches
from viewfold.pipeline.stream_config import StreamConfig
from viewfold.ssl.batchnorm import with_gathered_batchnorm
from viewfold.ssl.checkpoint import Progress, load_checkpoint, save_checkpoint
from viewfold.ssl.dist import rank, sum_over_ranks, world_size
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing
from viewfold.ssl.engine import LocalEngine, OptimConfig
from viewfold.ssl.loop import Step, train
from viewfold.ssl.methods import METHOD_CONFIGS, METHODS, Method, Task, Transitive, TransitiveConfig
from viewfold.values import Batch, Views

SMALL = TransitiveConfig(expander_widths=(24, 16), hard_from_step=1)
PAIRED = Task((), num_labels=0, paired=True)
NUM_PAIRS = 8
PARENT = torch.tensor([[0, 0, 1, 1, 2, -1, 2, -1], [0, 1, 1, -1, 2, 0, 0, -1]])


def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(EncoderConfig(backbone="test_efficientnet_gn", preprocessing=Preprocessing(image_size=16)))


def views() -> Views:
    """This rank's share of a batch of unlabelled pairs."""
    images = torch.rand(2, NUM_PAIRS, 3, 16, 16, generator=torch.Generator().manual_seed(5)).double()
    own = slice(rank() * NUM_PAIRS // world_size(), (rank() + 1) * NUM_PAIRS // world_size())
    none = torch.full_like(PARENT[0], -1)[own]
    return Views(images[:, own], None, (), none, none, none, parent=PARENT[:, own])


def two_steps() -> list[dict[str, Tensor]]:
    """Means over ranks of loss and gradients: of one step with negatives at random, and of one with the worst."""
    method = with_gathered_batchnorm(Transitive.build(SMALL, encoder(), PAIRED).double())
    found = []
    for _ in range(2):
        loss = method(views()).terms["ranking"]
        parameters = dict(method.named_parameters())
        grads = torch.autograd.grad(loss, list(parameters.values()))
        means = {"loss": loss.detach(), **dict(zip(parameters, grads, strict=True))}
        found.append({name: sum_over_ranks(value) / world_size() for name, value in means.items()})
    return found


def test_four_ranks_choose_the_negatives_that_one_process_does() -> None:
    expected = two_steps()
    assert all(value.abs().max() > 0 for step in expected for value in step.values())
    assert expected[0]["loss"] != expected[1]["loss"]
    for result in run_ranks(two_steps, world_size=4):
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-10)


def test_the_loss_is_both_sides_hinges_over_the_pairs_of_other_parents() -> None:
    config = replace(SMALL, negatives=50, margin=1.0)  # more than there are: every violator is chosen
    method = Transitive.build(config, encoder(), PAIRED).double()
    outcome = method(views())
    x, positive = (method.expand(method.encoder(images)) for images in views().images)
    total, violators, allowed = 0.0, 0, []
    for i, j in product(range(NUM_PAIRS), range(NUM_PAIRS)):
        if PARENT[0, j] >= 0 and PARENT[0, j] not in PARENT[:, i]:
            near, far, other = (
                1 - torch.cosine_similarity(a, b, dim=0).item()
                for a, b in ((x[i], positive[i]), (x[i], x[j]), (positive[i], x[j]))
            )
            hinges = max(0.0, near - far + 1.0) + max(0.0, near - other + 1.0)
            total, violators = total + hinges, violators + (hinges > 0)
            allowed.append(far)
    assert outcome.terms["ranking"].item() == pytest.approx(total / (2 * 50 * NUM_PAIRS), rel=1e-9)
    assert outcome.facts["violator_share"].item() == pytest.approx(violators / len(allowed))
    assert outcome.facts["negative_distance"].item() == pytest.approx(sum(allowed) / len(allowed))
    nearness = torch.cosine_similarity(x, positive).mean().item()
    assert outcome.facts["positive_distance"].item() == pytest.approx(1 - nearness)


def test_negatives_are_drawn_anew_at_every_training_step() -> None:
    method = Transitive.build(replace(SMALL, hard_share=0.0, hard_from_step=150_000), encoder(), PAIRED).double()
    losses = [method.train(mode)(views()).terms["ranking"].item() for mode in (True, True, False, False)]
    assert losses[0] != losses[1]
    assert losses[2] == losses[3]
    assert int(method.steps_done) == 2


def test_a_batch_without_negatives_teaches_nothing() -> None:
    outcome = Transitive.build(SMALL, encoder(), PAIRED).double()(replace(views(), parent=torch.zeros_like(PARENT)))
    assert outcome.terms["ranking"].item() == 0
    assert all(fact.isfinite() for fact in outcome.facts.values())


def test_training_without_mined_pairs_is_refused() -> None:
    with pytest.raises(InvalidInput, match="trains on mined pairs, and there are none; make them with `viewfold mine`"):
        Transitive.build(SMALL, encoder(), Task((), num_labels=0))
    with pytest.raises(InvalidInput, match="mined pairs, and there are none"):
        Transitive.build(SMALL, encoder(), PAIRED)(replace(views(), parent=None))
    with pytest.raises(InvalidInput, match=r"hard_from_step has no effect with hard_share=0\.1"):
        choose("method", METHOD_CONFIGS, {"name": "transitive", "hard_share": 0.1, "hard_from_step": 3})


@pytest.fixture(scope="module")
def mined(tmp_path_factory: pytest.TempPathFactory) -> tuple[ShardManifest, Partners]:
    """Unlabelled objects and pairs of them."""
    folder = tmp_path_factory.mktemp("objects")
    manifest = index_shards(write_objects(folder, unlabelled=12), folder)
    pairs = write_pairs(folder / "mined", manifest, tracks(range(12)) + chain(range(12)))
    return manifest, Partners.load(pairs, manifest)


def learned(
    method: Method, mined: tuple[ShardManifest, Partners], *, until: int = 3, cut: Path | None = None
) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and weights of a training on a stream of pairs; from a checkpoint in `cut`, or leaving one there."""
    engine, progress, losses = LocalEngine(method, OptimConfig(lr=1e-3), num_steps=4), Progress(), list[float]()
    if cut is not None and cut.is_dir():
        progress = load_checkpoint(cut / "step-2", engine)
    manifest, partners = mined
    config = StreamConfig(batch_size=8, image_size=16)
    batches = stream_batches(
        manifest, config, start_step=progress.step, num_steps=until - progress.step, partners=partners
    )

    def views_of(batch: Batch) -> Views:
        return make_views(batch, POLICIES["affine"](), seed=0)

    def hook(step: Step) -> None:
        losses.append(sum(term.item() for term in step.outcome.terms.values()))

    train(engine, batches, views_of, progress=progress, steps=until, hooks=[hook])
    if cut is not None and until == 2:
        save_checkpoint(cut, engine, progress)
    return losses, {name: value.clone() for name, value in method.state_dict().items()}


def test_cut_between_random_and_hard_negatives_equals_never_stopped(
    mined: tuple[ShardManifest, Partners], tmp_path: Path
) -> None:
    config = replace(SMALL, hard_from_step=3)
    losses, weights = learned(Transitive.build(config, encoder(), PAIRED), mined, until=4)
    first, _ = learned(Transitive.build(config, encoder(), PAIRED), mined, until=2, cut=tmp_path / "cut")
    rest, resumed = learned(Transitive.build(config, encoder(), PAIRED), mined, until=4, cut=tmp_path / "cut")
    assert first + rest == losses
    assert resumed["steps_done"] == 4
    assert all(torch.equal(resumed[name], value) for name, value in weights.items())


@pytest.mark.parametrize("name", ["simclr", "vicreg"])
def test_methods_of_two_views_learn_from_mined_pairs(name: str, mined: tuple[ShardManifest, Partners]) -> None:
    settings: dict[str, Any] = {"name": name, "expander_widths": [24, 16]}
    config = choose("method", METHOD_CONFIGS, settings)
    start = METHODS[name].build(config, encoder(), PAIRED)
    before = {key: value.clone() for key, value in start.state_dict().items()}
    losses, after = learned(start, mined)
    assert len(losses) == 3
    assert torch.tensor(losses).isfinite().all()
    assert any(not torch.equal(before[key], after[key]) for key in before if key.startswith("encoder."))
