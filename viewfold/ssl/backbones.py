"""Backbones by name: images `[batch, channels, h, w]` in, one pooled vector per image out.

Weights are drawn from torch's global generator; whoever builds a backbone seeds it.
"""

import difflib
from collections.abc import Callable
from functools import partial

from torch import nn

from viewfold.config import unknown
from viewfold.errors import InvalidInput, MissingDependency
from viewfold.ssl.resnet_sie import SIEResNet18

try:
    import timm
    from timm.models.resnet import BasicBlock, ResNet
except ModuleNotFoundError as error:
    raise MissingDependency("backbones need timm: pip install 'viewfold[train]'") from error


# One block a stage. timm annotates `block` as an instance where it takes the class.
_medium_resnet = partial(ResNet, BasicBlock, (1, 1, 1, 1), num_classes=0)  # type: ignore[arg-type]
_small_resnet = partial(_medium_resnet, channels=(32, 64, 128, 256), stem_type="deep", stem_width=16)


def _resnet_medium(in_channels: int) -> nn.Module:
    """512 features from 4.9 M weights: a ResNet of one block a stage."""
    return _medium_resnet(in_chans=in_channels)


def _resnet_small(in_channels: int) -> nn.Module:
    """256 features from 1.2 M weights: a ResNet of one block a stage and half the usual channels, for CPUs.

    Its stem is one 7x7 layer of 32 channels, in place of the three layers that timm gives a stem of that width. timm's
    one-layer stem has 64 whatever the other widths, which on a CPU is half of this model: trained on one core at
    64 px, 520 images/s with that one, 770 with the three layers, 1060 with this.
    """
    model: nn.Module = _small_resnet(in_chans=in_channels)
    stem = nn.Conv2d(in_channels, 32, kernel_size=7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    model.conv1 = stem
    return model


BACKBONES: dict[str, Callable[[int], nn.Module]] = {
    "resnet-medium": _resnet_medium,
    "resnet-small": _resnet_small,
    "resnet18-sie": SIEResNet18,
}
"""Our own: small ones for CPUs, and one of a paper that timm has not. Every name that timm knows works too."""


def build_backbone(name: str, *, in_channels: int = 3) -> nn.Module:
    """A randomly initialised backbone without classifier: one of `BACKBONES`, or any model of timm, pooled globally.

    Raises:
        InvalidInput: the name is neither ours nor timm's, or that model cannot give one vector per image.
    """
    if name in BACKBONES:
        return BACKBONES[name](in_channels)
    if name not in timm.list_models():
        near = difflib.get_close_matches(name, timm.list_models(), n=4)  # a message does not list a thousand names
        raise InvalidInput(f"{unknown('backbone', name, [*BACKBONES, *near])}, and all others of timm.list_models()")
    try:
        model: nn.Module = timm.create_model(name, num_classes=0, in_chans=in_channels)
    except (RuntimeError, TypeError) as error:
        raise InvalidInput(f"backbone {name!r} cannot be built for {in_channels} channels: {error}") from None
    return model
