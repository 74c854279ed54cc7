"""The names that other ports of a model give to its layers, as the names of the library whose model we build."""

import re

from torch import Tensor, nn

Weights = dict[str, Tensor]

_MASK = "mask_token"

# EfficientNet as the first PyTorch port of it named its layers (lukemelas/EfficientNet-PyTorch and what came of it).
_STEM = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
_EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
    **_SQUEEZE,
}
_NARROW = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2", **_SQUEEZE}

# MobileNetV2 with a block's layers in one flat row, where torchvision nests convolution, BatchNorm and ReLU.
_FLAT = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}
_FLAT_NARROW = {"0": "0.0", "1": "0.1", "3": "1", "4": "2"}


def with_timm_names(weights: Weights, model: nn.Module) -> Weights:
    """An EfficientNet's weights under timm's names, if they have those of the first PyTorch port; else unchanged.

    The token that stands for hidden patches while DINOv2 trains goes: it has no part in the features of a whole image.
    """
    if _MASK in weights and _MASK not in model.state_dict():
        weights = {key: value for key, value in weights.items() if key != _MASK}
    if "_conv_stem.weight" not in weights:
        return weights
    # timm counts blocks within stages, the other port through all of them.
    found = (re.match(r"blocks\.\d+\.\d+(?=\.)", name) for name in model.state_dict())
    places = list(dict.fromkeys(match.group() for match in found if match))
    expanded = {key.split(".")[1] for key in weights if "._expand_conv." in key}

    def renamed(key: str) -> str:
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(.+)", key)
        if block is None:
            layer, _, rest = key.partition(".")
            return f"{_STEM.get(layer, layer)}.{rest}"
        number, layer, rest = block.groups()
        if int(number) >= len(places):
            return key  # of a larger EfficientNet: left over, and named as the file names it
        return f"{places[int(number)]}.{(_EXPANDED if number in expanded else _NARROW).get(layer, layer)}.{rest}"

    return {renamed(key): value for key, value in weights.items()}


def with_torchvision_names(weights: Weights, model: nn.Module) -> Weights:
    """A MobileNetV2's weights under torchvision's names, if its blocks are flat; else unchanged."""
    if "features.1.conv.3.weight" not in weights or "features.1.conv.0.0.weight" not in model.state_dict():
        return weights
    wide = {key.split(".")[1] for key in weights if re.match(r"features\.\d+\.conv\.6\.", key)}
    return {_nested(key, wide): value for key, value in weights.items()}


def _nested(key: str, wide: set[str]) -> str:
    block = re.fullmatch(r"features\.(\d+)\.conv\.(\d+)\.(.+)", key)
    if block is None:
        return key
    number, layer, rest = block.groups()
    return f"features.{number}.conv.{(_FLAT if number in wide else _FLAT_NARROW).get(layer, layer)}.{rest}"
