"""Backbones of torchvision, as `torchvision:NAME`: the model without its last linear layer."""

import torch
from torch import nn
from torchvision import models

from viewfold.config import unknown
from viewfold.errors import InvalidInput

PREFIX = "torchvision:"
"""How their names begin."""


def torchvision_backbone(name: str) -> nn.Module:
    """A randomly initialised model for three channels, whose classifier's last linear layer passes its input on.

    Layers before that one stay, also where torchvision counts them to the classifier (VGG, MobileNetV3).

    Raises:
        InvalidInput: no such model, or it does not end in a linear layer.
    """
    model = _model(name)
    owner, _, attribute = _classifier_name(name, model).rpartition(".")
    setattr(model.get_submodule(owner), attribute, nn.Identity())
    return model


def _classifier_name(name: str, model: nn.Module) -> str:
    """Where the model's last linear layer lies; torchvision gives every model another name for it.

    Raises:
        InvalidInput: it has none.
    """
    last: list[str] = [where for where, layer in model.named_modules() if isinstance(layer, nn.Linear)][-1:]
    if not last:
        raise InvalidInput(f"backbone {PREFIX}{name} does not end in a linear classifier; choose another")
    return last[0]


def torchvision_mean_std(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """By what its published weights standardise images."""
    transforms = models.get_model_weights(name).DEFAULT.transforms()
    return tuple(transforms.mean), tuple(transforms.std)


def classifier_layers(name: str) -> tuple[str, ...]:
    """The layer of its published weights that `torchvision_backbone` leaves out.

    Raises:
        InvalidInput: no such model.
    """
    with torch.device("meta"):  # the names alone: nothing is drawn
        return (_classifier_name(name, _model(name)),)


def _model(name: str) -> nn.Module:
    known = models.list_models(module=models)
    if name not in known:
        raise unknown("torchvision model", name, known)
    model: nn.Module = models.get_model(name, weights=None)
    return model
