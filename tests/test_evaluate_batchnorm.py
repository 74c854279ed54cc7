"""BatchNorm of a frozen encoder in the published probes' way, against torch's own training mode and the formula."""

import pytest
import torch
from torch import Tensor, nn

from viewfold.errors import InvalidInput
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing
from viewfold.ssl.evaluate import with_batch_statistics


@pytest.fixture
def encoder() -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Encoder(EncoderConfig(equivariant_dim=64, preprocessing=Preprocessing(image_size=16))).eval()
    made.id = "an-encoder"
    return made


def batches(*sizes: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (size, 3, 16, 16), dtype=torch.uint8, generator=draw) for size in sizes]


def norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]


def test_features_and_drift_are_those_of_training_mode(encoder: Encoder) -> None:
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    images = batches(6, 4)
    features, drifted = with_batch_statistics(encoder, images)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert (encoder.training, drifted.training, drifted.id) == (False, False, "an-encoder")
    # Each batch is independent of those before it, and only the running statistics remember them.
    alone = torch.cat([with_batch_statistics(encoder, [batch])[0].all for batch in images])
    torch.testing.assert_close(features.all, alone)
    torch.testing.assert_close(features.invariant, features.all[:, :-64])
    torch.testing.assert_close(features.equivariant, features.all[:, -64:])
    encoder.train()
    with torch.no_grad():
        expected = torch.cat([encoder(batch.float() / 255) for batch in images])
    torch.testing.assert_close(features.all, expected)
    torch.testing.assert_close(drifted.state_dict(), encoder.state_dict())


def test_the_first_layer_follows_the_formula(encoder: Encoder) -> None:
    sizes = (6, 4)
    images = batches(*sizes)
    drifted = with_batch_statistics(encoder, images)[1]
    mean, var = torch.zeros(32), torch.ones(32)
    with torch.no_grad():
        for batch in images:
            rows = encoder.backbone.get_submodule("conv1")(encoder.preprocess(batch.float() / 255))
            rows = rows.movedim(1, 3).flatten(0, 2)
            mean, var = 0.9 * mean + 0.1 * rows.mean(0), 0.9 * var + 0.1 * rows.var(0)
    torch.testing.assert_close(norms(drifted)[0].running_mean, mean)
    torch.testing.assert_close(norms(drifted)[0].running_var, var)


def test_frozen_features_know_nothing_of_it_and_drifted_ones_differ(encoder: Encoder) -> None:
    images = batches(6, 4)
    frozen = encoder.encode(images[0]).all
    drifted = with_batch_statistics(encoder, images * 5)[1]
    assert torch.equal(encoder.encode(images[0]).all, frozen)
    assert (drifted.encode(images[0]).all - frozen).abs().max() > 0.01


def test_dropout_is_on_and_follows_the_seed(encoder: Encoder) -> None:
    encoder.backbone = nn.Sequential(encoder.backbone, nn.Dropout(0.5))
    encoder.eval()
    images, state = batches(6), torch.get_rng_state()
    first, again, other = (with_batch_statistics(encoder, images, seed=seed)[0].all for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("given", "as_if"), [((3, 1), (4,)), ((1, 3, 4), (4, 4)), ((3, 1, 1, 2), (5, 2))])
def test_a_single_image_joins_another_batch(encoder: Encoder, given: tuple[int, ...], as_if: tuple[int, ...]) -> None:
    images = torch.cat(batches(*given))
    found, expected = (
        with_batch_statistics(encoder, torch.split(images, list(sizes)))[0].all for sizes in (given, as_if)
    )
    assert torch.equal(found, expected)


def test_what_has_no_statistics_is_refused(encoder: Encoder) -> None:
    for images in ([], batches(1)):
        with pytest.raises(InvalidInput, match=rf"need two images or more, got {len(images)}"):
            with_batch_statistics(encoder, images)
    for name, layer in list(encoder.backbone.named_modules()):
        if isinstance(layer, nn.BatchNorm2d):
            parent, _, child = name.rpartition(".")
            setattr(encoder.backbone.get_submodule(parent), child, nn.Identity())
    with pytest.raises(InvalidInput, match="'resnet-small' has no BatchNorm: probe it frozen"):
        with_batch_statistics(encoder, batches(3))
