"""What of an encoder learns: the rest moves by no bit, whatever the optimizer, the mode and the number of ranks."""

from typing import Any

import pytest
import torch
from ranks import run_ranks
from torch import Tensor, nn

from viewfold.config import parse
from viewfold.errors import InvalidInput
from viewfold.ssl.backbones import build_backbone
from viewfold.ssl.dist import rank, world_size
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing
from viewfold.ssl.engine import LocalEngine, OptimConfig
from viewfold.ssl.methods import CCI, CCIConfig, Task
from viewfold.ssl.trainable import TrainableConfig, block_names, set_trainable
from viewfold.values import Views

DECAYING = OptimConfig(optimizer="adamw", lr=1e-2, weight_decay=0.5)
LEARNS = {
    "full": ("backbone.",),
    "last_blocks": ("backbone.layer4.0.",),
    "adapter": ("adapter.",),
    "head": ("adapter.",),
}


def method_of(config: TrainableConfig) -> CCI:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(backbone="resnet-small", preprocessing=Preprocessing(image_size=16)))
    set_trainable(encoder, config)
    return CCI.build(CCIConfig(), encoder, Task((), num_labels=2, num_domains=2))


def some_views() -> Views:
    """This rank's half, or all."""
    images = torch.rand(1, 8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    numbers = torch.arange(8)
    rows = numbers.chunk(world_size())[rank()]
    return Views(images[:, rows], None, (), rows % 2, rows % 4 // 2, rows)


def trained(what: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and buffers before and after three steps."""
    engine = LocalEngine(method_of(TrainableConfig(what=what)), DECAYING, num_steps=3)  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in engine.method.state_dict().items()}
    for _ in range(3):
        engine.backward(torch.stack(list(engine(some_views()).terms.values())).sum())
        engine.step()
    return before, dict(engine.method.state_dict())


@pytest.mark.parametrize("what", LEARNS)
def test_only_what_learns_moves(what: str) -> None:
    before, after = trained(what)
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    in_encoder = {name.removeprefix("encoder.") for name in moved if name.startswith("encoder.")}
    assert in_encoder
    assert all(name.startswith(LEARNS[what]) for name in in_encoder)
    assert any(name.startswith("classifier.") for name in moved)
    statistics = {name for name in in_encoder if "running" in name or "num_batches" in name}
    assert bool(statistics) == (what in ("full", "last_blocks"))


@pytest.mark.parametrize("what", ["last_blocks", "adapter"])
def test_two_ranks_train_what_one_does(what: str) -> None:
    _, expected = trained(what)
    for _, after in run_ranks(trained, what):
        for name, value in expected.items():
            torch.testing.assert_close(after[name], value, rtol=2e-3, atol=2e-4, msg=name)


def test_the_mode_of_frozen_parts_survives_train_and_encode() -> None:
    encoder = method_of(TrainableConfig(what="last_blocks", blocks=2)).encoder
    encoder.train()
    encoder.encode(torch.zeros(2, 3, 16, 16))
    modes = {name: part.training for name, part in encoder.backbone.named_modules() if isinstance(part, nn.BatchNorm2d)}
    assert {name for name, training in modes.items() if training} == {n for n in modes if n[:6] in ("layer3", "layer4")}


@pytest.mark.parametrize(
    ("backbone", "count", "last"),
    [
        ("resnet-small", 4, "layer4.0"),
        ("tf_efficientnet_lite0", 16, "blocks.6.0"),
        ("vit_tiny_patch16_224", 12, "blocks.11"),
        ("torchvision:mobilenet_v2", 19, "features.18"),
    ],
)
def test_blocks_are_the_elements_of_the_lists_of_layers(backbone: str, count: int, last: str) -> None:
    with torch.device("meta"):
        names = block_names(build_backbone(backbone))
    assert (len(names), names[-1]) == (count, last)


def test_layers_behind_the_last_block_learn_and_loose_weights_do_not() -> None:
    encoder = Encoder(EncoderConfig(backbone="test_vit", preprocessing=Preprocessing(image_size=160)))
    set_trainable(encoder, TrainableConfig(what="last_blocks"))
    learning = {name for name, weight in encoder.named_parameters() if weight.requires_grad}
    last = block_names(encoder.backbone)[-1]
    assert f"backbone.{last}.norm1.weight" in learning
    assert "backbone.norm.weight" in learning
    assert "backbone.pos_embed" not in learning


def test_what_has_no_effect_or_does_not_exist_is_refused() -> None:
    for bad in (
        {"blocks": 2},
        {"what": "head", "width": 8},
        {"what": "adapter", "dim": 8},
        {"what": "adapter", "blocks": 2},
    ):
        with pytest.raises(InvalidInput, match="has no effect"):
            parse(TrainableConfig, bad)
    with pytest.raises(InvalidInput, match="has 4 blocks"):
        method_of(TrainableConfig(what="last_blocks", blocks=5))
    encoder = method_of(TrainableConfig(what="adapter", width=8)).encoder
    set_trainable(encoder, TrainableConfig(what="adapter", width=8))
    with pytest.raises(InvalidInput, match="has an adapter already"):
        set_trainable(encoder, TrainableConfig(what="head"))


def deepspeed_trained(stage: int, what: str, folder: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of a run of four steps that was saved and loaded after two, and of a plain one."""
    from viewfold.ssl.deepspeed_engine import DeepSpeedConfig, DeepSpeedEngine

    config = TrainableConfig(what=what)  # type: ignore[arg-type]

    def engine() -> DeepSpeedEngine:
        zero = DeepSpeedConfig(zero_stage=stage)  # type: ignore[arg-type]
        return DeepSpeedEngine(method_of(config), DECAYING, zero, num_steps=4)

    def steps(own: Any) -> Any:
        for _ in range(2):
            own.backward(torch.stack(list(own(some_views()).terms.values())).sum())
            own.step()
        return own

    first = steps(engine())
    first.save(folder)
    second = engine()
    second.load(folder)
    plain = steps(steps(LocalEngine(method_of(config), DECAYING, num_steps=4)))
    return steps(second).weights(), plain.weights()


@pytest.mark.heavy
@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize("what", ["last_blocks", "adapter"])
def test_deepspeed_trains_what_the_plain_engine_does(stage: int, what: str, tmp_path: Any) -> None:
    (own, plain), _ = run_ranks(deepspeed_trained, stage, what, tmp_path)
    for name, value in plain.items():
        torch.testing.assert_close(own[name], value, rtol=2e-3, atol=2e-4, msg=name)
