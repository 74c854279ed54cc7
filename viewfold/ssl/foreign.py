"""Encoders from backbones that others trained: timm, torchvision, the image towers of OpenCLIP."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn
from torchvision import models

from viewfold.errors import InvalidInput
from viewfold.ssl import backbones_open_clip as clip
from viewfold.ssl import backbones_torchvision as vision
from viewfold.ssl.backbones import BACKBONES, build_backbone
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing
from viewfold.ssl.foreign_hub import HUB_URL, reachable
from viewfold.ssl.foreign_names import with_timm_names, with_torchvision_names
from viewfold.ssl.foreign_weights import ENDINGS, load_whole, read_weights, with_positions

HUB = "hub"
"""The weights that a library publishes for the backbone itself."""
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class _Source:
    """How one library's weights come to a backbone of ours."""

    backbone: str
    """As an encoder names it."""
    mean_std: Callable[[], tuple[Sequence[float], Sequence[float]] | None]
    """Of its published preprocessing; None: it has published none."""
    download: Callable[[], dict[str, Tensor]]
    dropped: tuple[str, ...]
    """Layers of the weights that the backbone has not: the classifier."""
    prepare: Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]]
    """Weights as a file has them to those of the module."""
    on_hub: bool = True
    """Whether they lie on Hugging Face's hub."""


def foreign_encoder(
    backbone: str, weights: str, *, image_size: int, mean: Triple | None = None, std: Triple | None = None
) -> Encoder:
    """An encoder of a published backbone and its weights, in evaluation mode.

    `backbone`: a model of timm (with or without the tag of its weights), `torchvision:NAME` or `open_clip:NAME`.
    `weights`: a file, `hub` for those that the library publishes, or, of OpenCLIP, their tag. `mean` and `std` are
    those of the published preprocessing unless given; images are resized to `image_size` as a whole, without a crop.

    Raises:
        InvalidInput: unknown names, weights of another model, or ones that cannot be reached from here.
        MissingDependency: open_clip is not installed.
    """
    source = _source(backbone, weights, image_size)
    published = None if mean and std else source.mean_std()
    if published is None and not (mean and std):
        raise InvalidInput(f"backbone {backbone!r} has no published preprocessing; give both --mean and --std")
    own_mean, own_std = published or ((), ())
    try:
        preprocessing = Preprocessing(
            image_size=image_size, mean=_triple(mean or own_mean), std=_triple(std or own_std)
        )
    except ValueError as error:
        raise InvalidInput(f"{backbone}: {error}") from None
    encoder = Encoder(EncoderConfig(backbone=source.backbone, preprocessing=preprocessing))
    if weights.endswith(ENDINGS) or Path(weights).is_file():
        given = read_weights(Path(weights))
    else:
        given = _downloaded(source, backbone, weights)
    given = source.prepare(given, encoder.backbone)
    load_whole(encoder.backbone, given, dropped=source.dropped, where=f"{weights}: {backbone}")
    return encoder.eval()


def _source(backbone: str, weights: str, image_size: int) -> _Source:
    if backbone.startswith(clip.PREFIX):
        return _open_clip(backbone, weights)
    if weights != HUB and not weights.endswith(ENDINGS) and not Path(weights).is_file():
        raise InvalidInput(f"--weights {weights}: no such file; name a file ({', '.join(ENDINGS)}) or `{HUB}`")
    return _torchvision(backbone) if backbone.startswith(vision.PREFIX) else _timm(backbone, image_size)


def _open_clip(backbone: str, tag: str) -> _Source:
    name = backbone.removeprefix(clip.PREFIX)
    return _Source(
        backbone,
        lambda: clip.open_clip_mean_std(name, tag),
        lambda: read_weights(Path(clip.download_open_clip(name, tag))),
        (),
        clip.tower_weights,
    )


def _torchvision(backbone: str) -> _Source:
    name = backbone.removeprefix(vision.PREFIX)
    return _Source(
        backbone,
        lambda: vision.torchvision_mean_std(name),
        lambda: dict(models.get_model_weights(name).DEFAULT.get_state_dict(progress=False)),
        vision.classifier_layers(name),
        with_torchvision_names,
        on_hub=False,
    )


def _timm(backbone: str, image_size: int) -> _Source:
    name = backbone.partition(".")[0]
    try:
        published = None if name in BACKBONES else timm.get_pretrained_cfg(backbone, allow_unregistered=True)
    except RuntimeError as error:  # timm has no weights of that tag
        raise InvalidInput(f"{backbone}: {' '.join(str(error).split())[:200]}") from None
    if published is None and name not in BACKBONES:
        build_backbone(name)  # says which names are like an unknown one
    layers = published.classifier if published else ()
    size: dict[str, Any] = {"img_size": image_size} if published and published.fixed_input_size else {}
    return _Source(
        name,
        lambda: (published.mean, published.std) if published else None,
        lambda: dict(timm.create_model(backbone, pretrained=True, num_classes=0, **size).state_dict()),
        (layers,) if isinstance(layers, str) else tuple(layers or ()),
        lambda weights, model: with_positions(with_timm_names(weights, model), model),
    )


def _downloaded(source: _Source, backbone: str, weights: str) -> dict[str, Tensor]:
    try:
        with reachable(f"{backbone}: its weights ({weights})", HUB_URL if source.on_hub else ""):
            return source.download()
    except RuntimeError as error:  # timm has no weights of that name
        raise InvalidInput(f"{backbone}: {' '.join(str(error).split())[:200]}") from None


def _triple(values: Sequence[float]) -> Triple:
    red, green, blue = values
    return float(red), float(green), float(blue)
