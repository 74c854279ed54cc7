"""Backbones by name: images `[batch, channels, h, w]` in, one pooled vector per image out.

Weights are drawn from torch's global generator; whoever builds a backbone seeds it.
"""

import difflib
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from viewfold.config import unknown
from viewfold.errors import InvalidInput, MissingDependency

try:
    import timm
    from timm.models.resnet import BasicBlock, ResNet
except ModuleNotFoundError as error:
    raise MissingDependency("backbones need timm: pip install 'viewfold[train]'") from error

from viewfold.ssl.backbones_open_clip import PREFIX as OPEN_CLIP
from viewfold.ssl.backbones_open_clip import open_clip_tower
from viewfold.ssl.backbones_torchvision import PREFIX as TORCHVISION
from viewfold.ssl.backbones_torchvision import torchvision_backbone
from viewfold.ssl.resnet_sie import SIEResNet18

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


def build_backbone(name: str, *, in_channels: int = 3, image_size: int | None = None) -> nn.Module:
    """A randomly initialised backbone without classifier: one of `BACKBONES`, any model of timm, pooled globally, or
    `torchvision:NAME` or `open_clip:NAME`.

    `image_size` is needed by those that are built for one size, such as ViTs; None: the size they were published for.

    Raises:
        InvalidInput: the name is known to none of them, or that model cannot give one vector per image.
        MissingDependency: it is of a package that is not installed.
    """
    if name in BACKBONES:
        return BACKBONES[name](in_channels)
    if in_channels != 3 and name.startswith((TORCHVISION, OPEN_CLIP)):
        raise InvalidInput(f"backbone {name!r} takes colour images; set preprocessing.grey=false")
    if name.startswith(TORCHVISION):
        return torchvision_backbone(name.removeprefix(TORCHVISION))
    if name.startswith(OPEN_CLIP):
        return open_clip_tower(name.removeprefix(OPEN_CLIP), image_size=image_size)
    return _timm_backbone(name, in_channels=in_channels, image_size=image_size)


def _timm_backbone(name: str, *, in_channels: int, image_size: int | None) -> nn.Module:
    if name not in timm.list_models():
        near = difflib.get_close_matches(name, timm.list_models(), n=4)  # a message does not list a thousand names
        raise InvalidInput(f"{unknown('backbone', name, [*BACKBONES, *near])}, and all others of timm.list_models()")
    size: dict[str, Any] = {"img_size": image_size} if image_size and _has_one_size(name) else {}
    try:
        model: nn.Module = timm.create_model(name, num_classes=0, in_chans=in_channels, **size)
    except (AssertionError, RuntimeError, TypeError) as error:
        where = f"{in_channels} channels" + (f" of {image_size} px" if size else "")
        raise InvalidInput(f"backbone {name!r} cannot be built for {where}: {error}") from None
    return model


def _has_one_size(name: str) -> bool:
    """Whether a model of timm takes images of the one size it was built for."""
    published = timm.get_pretrained_cfg(name)
    return published is not None and bool(published.fixed_input_size)
