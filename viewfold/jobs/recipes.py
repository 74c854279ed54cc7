"""Every run that is published, as a function of no arguments; a variant is `replace` of another."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from viewfold.augment import AffineColourPolicy, AffineConfig, AffinePolicy
from viewfold.config import published
from viewfold.jobs.cluster import ClusterConfig
from viewfold.jobs.compare import CompareConfig
from viewfold.jobs.data import DataConfig
from viewfold.jobs.embed import EmbedConfig
from viewfold.jobs.evaluate_config import EvaluateConfig
from viewfold.jobs.index import IndexConfig
from viewfold.jobs.mine import MineConfig
from viewfold.jobs.run_config import RunConfig
from viewfold.jobs.train_config import TrainConfig
from viewfold.pipeline.stream_config import StreamConfig
from viewfold.ssl.encoder import EncoderConfig, Preprocessing
from viewfold.ssl.engine import OptimConfig
from viewfold.ssl.evaluate import PairProbeConfig
from viewfold.ssl.methods import (
    CCI_PRESETS,
    SIE_PRESETS,
    MethodConfig,
    MLCConfig,
    SIEConfig,
    SupervisedConfig,
    TCRConfig,
    TransitiveConfig,
    VICRegConfig,
)


def objects_demo() -> RunConfig:
    """SIE on shipped renderings of 100 objects with known poses, measured on 30 others. Two CPU cores, minutes."""
    # Grey and standardised: hue and light are the easy way to satisfy variance and covariance, and teach no shape.
    preprocessing = Preprocessing(image_size=64, grey=True, standardise="image")
    return RunConfig(
        name="objects-demo",
        data=DataConfig(shards=("demo:objects-train",)),
        validation=DataConfig(shards=("demo:objects-val",)),
        encoder=EncoderConfig(backbone="resnet-small", equivariant_dim=128, preprocessing=preprocessing),
        pretrain=TrainConfig(
            method=SIEConfig(transformation="rotation", expander_widths=(256, 256)),
            # Shift and size say nothing of the pose, and keep 100 objects from being learned by heart.
            policy=AffinePolicy(affine=AffineConfig(rotation_rad=0, shear_rad=0, log_scale=0.15, translate_ratio=0.1)),
            stream=StreamConfig(batch_size=64, images_per_sample=2),
            optim=OptimConfig(lr=1e-3, schedule="cosine", warmup_steps=20),
            steps=300,
        ),
        evaluate=EvaluateConfig(),
    )


def emoji_demo() -> RunConfig:
    """Shipped emoji in five styles: pretrain and adapt on four, choose demonstrations for the fifth vendor's."""
    return RunConfig(
        name="emoji-demo",
        data=DataConfig(shards=("demo:emoji",)),
        held_out=("twemoji",),
        encoder=EncoderConfig(backbone="resnet-small", equivariant_dim=64),
        pretrain=TrainConfig(
            method=SIEConfig(transformation="drawn", expander_widths=(256, 256)),
            policy=AffineColourPolicy(),
            stream=StreamConfig(batch_size=64),
            optim=OptimConfig(lr=1e-3, schedule="cosine", warmup_steps=20),
            steps=200,
        ),
        adapt=TrainConfig(
            method=CCI_PRESETS["robust"],
            policy=AffineColourPolicy(),
            stream=StreamConfig(batch_size=92, classes_per_batch=23),  # each class once in each of the four styles
            optim=OptimConfig(lr=1e-3, schedule="cosine", warmup_steps=10),
            steps=300,
        ),
        evaluate=EvaluateConfig(exclude_group=True),
        embed=EmbedConfig(),
        index=IndexConfig(),
        register_as="viewfold-demo",
        compare=CompareConfig(),
    )


def folders() -> RunConfig:
    """Any labelled images, here the shipped emoji (set data.shards): pretrain on drawn views, then index."""
    demo = emoji_demo()
    assert demo.pretrain is not None
    return replace(
        demo,
        name="folders",
        held_out=(),
        adapt=None,
        evaluate=None,
        compare=None,
        register_as=None,
        pretrain=replace(demo.pretrain, steps=1000),
    )


def sie_objects3d() -> RunConfig:
    """SIE on 611 objects turned about the vertical axis, measured on 105 others. Two CPU cores, minutes."""
    return _objects3d(
        "sie-objects3d", _small(replace(SIE_PRESETS["sie"], transformation="rotation-squared")), grey=True
    )


def vicreg_objects3d() -> RunConfig:
    """What SIE is held against: VICReg on the same images, for as long."""
    return _objects3d("vicreg-objects3d", _VICREG, grey=True)


def supervised_objects3d() -> RunConfig:
    """The ceiling: the same encoder, told class and rotation, on the same images, for as long."""
    return _objects3d(
        "supervised-objects3d", SupervisedConfig(transformation="rotation", regressor_width=256), grey=True
    )


def sie_colour_objects3d() -> RunConfig:
    """SIE that follows rotation and hue, on the same objects in colour."""
    return _objects3d("sie-colour-objects3d", _small(SIE_PRESETS["rotation+colour"]), grey=False)


def vicreg_colour_objects3d() -> RunConfig:
    """VICReg on the same objects in colour."""
    return _objects3d("vicreg-colour-objects3d", _VICREG, grey=False)


_VICREG = VICRegConfig(expander_widths=(128, 128), covariance=0.5)


def _small(sie: SIEConfig) -> SIEConfig:
    """For batches of some tens: covariances of as many dimensions as the published ones would be noise."""
    return replace(sie, expander_widths=(64, 64), equivariance_factor=1.0, covariance=0.5)


def _objects3d(name: str, method: MethodConfig, *, grey: bool) -> RunConfig:
    """One method on the pack; all that is not the method is the same for every one."""
    split = isinstance(method, (SIEConfig, SupervisedConfig))
    # Grey and standardised for shape: hue and light are the easy way to satisfy variance and covariance.
    preprocessing = Preprocessing(image_size=64, grey=grey, standardise="image")
    return RunConfig(
        name=name,
        data=DataConfig(shards=("pack:objects3d/objects3d-yaw-train",)),
        validation=DataConfig(shards=("pack:objects3d/objects3d-yaw-val",)),
        encoder=EncoderConfig(
            backbone="resnet-small", equivariant_dim=128 if split else 0, preprocessing=preprocessing
        ),
        pretrain=TrainConfig(
            method=method,
            # Shift and size say nothing of the pose, and keep single objects from being learned by heart.
            policy=AffinePolicy(affine=AffineConfig(rotation_rad=0, shear_rad=0, log_scale=0.15, translate_ratio=0.1)),
            stream=StreamConfig(batch_size=32, images_per_sample=4),
            optim=OptimConfig(lr=3e-3, schedule="cosine", warmup_steps=20),
            steps=5000,
        ),
        # With fewer pairs a probe learns them by heart, and reads less off every encoder.
        evaluate=EvaluateConfig(pairs_per_object=100, probe=PairProbeConfig(steps=600)),
    )


def mcr2_emoji() -> RunConfig:
    """Clusters of the shipped emoji without a label: TCR, then MLC from its head, read out on all images."""
    hidden_widths, dim = (512,), 64  # of the head, which the second stage goes on with
    pretrain = TrainConfig(
        method=TCRConfig(form="unit_average", hidden_widths=hidden_widths, dim=dim),
        policy=AffineColourPolicy(),
        stream=StreamConfig(batch_size=128),
        optim=OptimConfig(lr=1e-3, schedule="cosine", warmup_steps=20),
        steps=600,
    )
    return RunConfig(
        name="mcr2-emoji",
        data=DataConfig(shards=("demo:emoji",)),
        held_out=("twemoji",),
        encoder=EncoderConfig(backbone="resnet-small"),
        pretrain=pretrain,
        adapt=replace(
            pretrain,
            method=MLCConfig(eta=0.13, hidden_widths=hidden_widths, dim=dim),
            stream=StreamConfig(batch_size=256),
            optim=OptimConfig(lr=1e-4, schedule="cosine", warmup_steps=10),
            steps=200,
        ),
        cluster=ClusterConfig(),
        evaluate=EvaluateConfig(exclude_group=True),
        register_as="viewfold-mcr2-emoji",
    )


def transitive_objects3d() -> RunConfig:
    """From SIE's encoder to one that also knows alike objects: pairs mined across objects, then a ranking loss."""
    sie = sie_objects3d()
    assert sie.pretrain is not None
    return replace(
        sie,
        name="transitive-objects3d",
        mine=MineConfig(),
        adapt=replace(
            sie.pretrain,
            method=TransitiveConfig(expander_widths=(256,), hard_from_step=500),
            stream=StreamConfig(batch_size=64),
            optim=OptimConfig(lr=3e-4, schedule="cosine", warmup_steps=20),
            steps=1000,
        ),
        register_as="viewfold-transitive-objects3d",
    )


def smoke() -> RunConfig:
    """Every stage in a few steps on the shipped emoji: shows that the machine works, not that anything is learned."""
    demo = emoji_demo()
    assert demo.pretrain is not None
    assert demo.adapt is not None
    return replace(
        demo,
        name="smoke",
        pretrain=replace(demo.pretrain, steps=4, log_every=2),
        adapt=replace(demo.adapt, steps=4, log_every=2),
        register_as="viewfold-smoke",
    )


RECIPES: dict[str, Callable[[], RunConfig]] = {
    "emoji-demo": emoji_demo,
    "folders": folders,
    "mcr2-emoji": mcr2_emoji,
    "objects-demo": objects_demo,
    "sie-colour-objects3d": sie_colour_objects3d,
    "sie-objects3d": sie_objects3d,
    "smoke": smoke,
    "supervised-objects3d": supervised_objects3d,
    "transitive-objects3d": transitive_objects3d,
    "vicreg-colour-objects3d": vicreg_colour_objects3d,
    "vicreg-objects3d": vicreg_objects3d,
}


def find(recipe: str, overrides: Sequence[str]) -> RunConfig:
    """A published recipe by name, or a YAML file, with `key=value` overrides.

    Raises:
        InvalidInput: neither a recipe nor a file, or settings that `config.parse` refuses.
    """
    return published("recipe", RunConfig, RECIPES, recipe, overrides)
