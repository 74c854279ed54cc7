"""Every in-context evaluation that is published, as a function of no arguments."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from viewfold.augment import AffineColourPolicy, NonePolicy
from viewfold.config import published
from viewfold.jobs.data import DataConfig
from viewfold.jobs.icl_config import IclConfig
from viewfold.jobs.recipes import emoji_demo
from viewfold.jobs.train_config import TrainConfig
from viewfold.pipeline.stream_config import StreamConfig
from viewfold.ssl.engine import OptimConfig
from viewfold.ssl.methods import CCI_PRESETS, CCIConfig
from viewfold.ssl.trainable import TrainableConfig

VENDORS = (
    ("noto", "noto-v1"),
    ("fluent-emoji", "fluent-emoji-flat", "fluent-emoji-high-contrast"),
    ("twemoji",),
    ("fxemoji",),
)
"""The styles of the emoji pack by who drew them: a vendor's other styles would give the held-out one away."""

METHODS: dict[str, CCIConfig] = {
    "robust": CCI_PRESETS["robust"],
    "hcvp": CCI_PRESETS["hcvp"],
    "ce": CCIConfig(cci_weight=0.0),
}
"""Both presets, and cross-entropy alone: what of the gain is due to labels, and what to contrast across domains."""


def icl_emoji() -> IclConfig:
    """Emoji, one vendor held out after the other; nothing learns from its styles, or from half of the code points.

    Images of that half ask, drawn by that vendor: the very things are new, in every style.
    """
    demo = emoji_demo()
    assert demo.pretrain is not None
    return IclConfig(
        name="icl-emoji",
        data=DataConfig(shards=("pack:emoji/emoji",)),
        folds=VENDORS,
        encoder=demo.encoder,
        pretrain=replace(demo.pretrain, stream=StreamConfig(batch_size=128), steps=800),
        adaptations={name: _whole(method) for name, method in METHODS.items()},
        seeds=(0, 1, 2, 3, 4),
        unseen_share=0.5,
    )


def icl_emoji_frozen() -> IclConfig:
    """The same behind a fixed encoder that others trained, at 128 px (set start=FOLDER): a linear map learns."""
    return replace(
        icl_emoji(),
        name="icl-emoji-frozen",
        start="encoders/base",
        encoder=None,
        pretrain=None,
        adaptations={name: _linear(method) for name, method in METHODS.items()},
    )


def icl_emoji_demo() -> IclConfig:
    """The same in small, on the shipped emoji: two vendors held out, one seed."""
    full = icl_emoji()
    assert full.pretrain is not None
    return replace(
        full,
        name="icl-emoji-demo",
        data=DataConfig(shards=("demo:emoji",)),
        folds=(("twemoji",), ("noto", "noto-v1")),
        pretrain=replace(full.pretrain, steps=200),
        adaptations={"robust": replace(full.adaptations["robust"], steps=200)},
        seeds=(0,),
    )


def _whole(method: CCIConfig) -> TrainConfig:
    """All weights of a small encoder are adapted."""
    return TrainConfig(
        method=method,
        policy=AffineColourPolicy(),
        stream=StreamConfig(batch_size=92, classes_per_batch=23),
        optim=OptimConfig(lr=1e-3, schedule="cosine", warmup_steps=10),
        steps=200,
    )


def _linear(method: CCIConfig) -> TrainConfig:
    """A linear map behind a frozen backbone, from features of undistorted images: the best on vendors left out for it,
    where a residual adapter gained three quarters as much."""
    return TrainConfig(
        method=method,
        train=TrainableConfig(what="head", dim=512),
        policy=NonePolicy(),
        stream=StreamConfig(image_size=128, batch_size=276, classes_per_batch=23),
        optim=OptimConfig(lr=1e-3, schedule="cosine", warmup_steps=10),
        steps=300,
        workers=1,
    )


ICL_RECIPES: dict[str, Callable[[], IclConfig]] = {
    "icl-emoji": icl_emoji,
    "icl-emoji-demo": icl_emoji_demo,
    "icl-emoji-frozen": icl_emoji_frozen,
}


def find(recipe: str, overrides: Sequence[str]) -> IclConfig:
    """A published evaluation by name, or a YAML file, with `key=value` overrides.

    Raises:
        InvalidInput: neither a recipe nor a file, or settings that `config.parse` refuses.
    """
    return published("evaluation", IclConfig, ICL_RECIPES, recipe, overrides)
