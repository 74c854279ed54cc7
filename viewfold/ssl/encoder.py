"""The encoder: preprocessing, backbone, named parts of the features; its folder on disk, with an identity.

Preprocessing (size, grey, standardisation) is the first step of the encoder itself, so an encoder means the same
everywhere: training, embedding and serving all hand it plain images in 0..1.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import safetensors
import torch
from jaxtyping import Float, Shaped
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from viewfold.config import Config, dump, parse
from viewfold.errors import ArtifactMismatch, InvalidInput
from viewfold.folders import whole_folder
from viewfold.ssl.adapter import Adapter, AdapterConfig, check_adapter_fits
from viewfold.ssl.backbones import build_backbone

FORMAT = 1
"""Version of the encoder folder; a reader refuses any other."""
SAME_FEATURES = 0.9999
"""Least cosine between a probe's stored features and those computed on this machine."""
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True, kw_only=True)
class Preprocessing(Config):
    """What is done to an image in 0..1 before the backbone sees it, in this order: size, grey, standardise."""

    image_size: int = 64
    """Side in pixels; images of another size are resized (bilinear, antialiased)."""
    grey: bool = False
    """Keep only the luma: the backbone gets one channel."""
    standardise: Literal["image", "channels", "none"] = "channels"
    """`image`: each image minus its own mean, by its own deviation, which removes gain and offset of the lighting;
    `channels`: fixed `mean` and `std`; `none`: values stay in 0..1."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Of red, green, blue; read by `channels` only. With `grey` their luma is used."""
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    """Of red, green, blue; read by `channels` only. With `grey` their luma is used."""

    def __post_init__(self) -> None:
        if self.image_size < 8:
            raise ValueError(f"image_size must be at least 8, got {self.image_size}")
        if not all(0 < value < math.inf for value in self.std):
            raise ValueError(f"std must be above 0 and finite in every channel, got {self.std}")
        if not all(map(math.isfinite, self.mean)):
            raise ValueError(f"mean must be finite in every channel, got {self.mean}")


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(Config):
    """Architecture of an encoder and what it does to an image first."""

    backbone: str = "resnet-small"
    """A name of `viewfold list backbones`, any model of timm, `torchvision:NAME`, or `open_clip:NAME` (its image
    tower)."""
    equivariant_dim: int = 0
    """Trailing features that follow the transformation; the leading ones must ignore it. 0: all must."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    adapter: AdapterConfig | None = None
    """A small map behind the backbone, which may be all that a training changes; none where it is left out."""

    def __post_init__(self) -> None:
        if self.equivariant_dim < 0:
            raise ValueError(f"equivariant_dim must be 0 or more, got {self.equivariant_dim}")


@dataclass(frozen=True)
class Features:
    """Features of images, float32 on the CPU, rows in the order of the images; not normalised."""

    invariant: Float[Tensor, "image invariant_dim"]
    equivariant: Float[Tensor, "image equivariant_dim"]
    all: Float[Tensor, "image dim"]


class Encoder(nn.Module):
    """Images to features whose leading channels are the invariant part and whose trailing ones the equivariant part.

    The weights come from torch's global generator, so whoever builds one seeds it.

    >>> encoder = vf.Encoder(EncoderConfig(backbone="resnet-small", equivariant_dim=64))
    >>> features = encoder.encode(torch.zeros(2, 3, 64, 64))
    >>> features.invariant.shape, features.equivariant.shape
    (torch.Size([2, 192]), torch.Size([2, 64]))

    Raises:
        InvalidInput: unknown backbone, one that does not take this image size, or no room for the invariant part.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.id: str | None = None
        """Identity of the folder it was loaded from; None while it is being trained."""
        self.preprocess = Preprocess(config.preprocessing)
        # On a CPU this trains a small ResNet 45 % faster than the default layout (64 px, one core: 630 images/s, 430).
        self.backbone = build_backbone(
            config.backbone, in_channels=self.preprocess.channels, image_size=config.preprocessing.image_size
        ).to(memory_format=torch.channels_last)
        self.dim = _output_dim(self.backbone, config, self.preprocess.channels)
        self.base_dim = self.dim
        """Features of the backbone, before an adapter."""
        self.adapter: Adapter | None = None
        self._learning: tuple[str, ...] | None = None  # of the backbone; None: all of it
        if config.adapter is not None:
            self.add_adapter(config.adapter)
        if config.equivariant_dim > self.dim:
            raise InvalidInput(
                f"equivariant_dim {config.equivariant_dim} is more than the {self.dim} features of backbone "
                f"{config.backbone!r}; choose at most {self.dim}"
            )
        split = self.dim - config.equivariant_dim
        self.parts = {"all": slice(0, self.dim), "equivariant": slice(split, self.dim), "invariant": slice(0, split)}

    def add_adapter(self, config: AdapterConfig) -> None:
        """Put a map behind the backbone, which from then on is a part of this encoder.

        Raises:
            InvalidInput: the encoder has an equivariant part, which the map would mix with the other.
        """
        check_adapter_fits(config, self.config.equivariant_dim)
        self.config = replace(self.config, adapter=config)
        self.adapter = Adapter(config, self.base_dim)
        self.dim = self.adapter.dim
        self.parts = {
            "all": slice(0, self.dim),
            "equivariant": slice(self.dim, self.dim),
            "invariant": slice(0, self.dim),
        }

    def freeze(self, *, but: Sequence[str] = ()) -> None:
        """Let the backbone learn nothing from now on, but for these submodules of it: it gets no gradient, and stays in
        evaluation mode whatever the mode of the encoder."""
        self.backbone.requires_grad_(False)
        for name in but:
            self.backbone.get_submodule(name).requires_grad_(True)
        self._learning = tuple(but)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Encoder":
        """As torch has it, but for frozen parts, whose BatchNorm and dropout stay as in evaluation."""
        super().train(mode)
        if self._learning is not None:
            self.backbone.eval()
            for name in self._learning:  # by name: an engine may have put other modules in their places
                self.backbone.get_submodule(name).train(mode)
        return self

    def forward(
        self, images: Float[Tensor, "batch 3 height width"] | Float[Tensor, "batch {self.base_dim}"]
    ) -> Float[Tensor, "batch {self.dim}"]:
        """Features of images in 0..1, or of what the backbone once made of them, which is then not run."""
        features: Tensor = images if images.ndim == 2 else self.base(images)
        return features if self.adapter is None else self.adapter(features)

    def base(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch {self.base_dim}"]:
        """The backbone's own features of images in 0..1."""
        features: Tensor = self.backbone(self.preprocess(images).contiguous(memory_format=torch.channels_last))
        return features

    @torch.no_grad()
    def encode(self, images: Shaped[Tensor, "image 3 height width"], *, batch_size: int = 256) -> Features:
        """Features of images, uint8 or float in 0..1, in evaluation mode and in batches; training mode is restored."""
        training, device = self.training, next(self.parameters()).device
        self.eval()
        rows = [self(_unit_range(chunk.to(device))).float().cpu() for chunk in torch.split(images, batch_size)]
        self.train(training)
        every = torch.cat(rows) if rows else torch.empty(0, self.dim)
        return Features(every[:, self.parts["invariant"]], every[:, self.parts["equivariant"]], every)


class Preprocess(nn.Module):
    """Size, grey, standardise: images in 0..1 as a backbone wants them."""

    mean: Tensor
    std: Tensor
    luma: Tensor

    def __init__(self, config: Preprocessing) -> None:
        super().__init__()
        self.config = config
        self.channels = 1 if config.grey else 3
        mean, std, luma = (torch.tensor(x).view(1, 3, 1, 1) for x in (config.mean, config.std, _LUMA))
        if config.grey:
            mean, std = ((x * luma).sum(1, keepdim=True) for x in (mean, std))
        # Not persistent: they follow from the configuration, which is stored beside the weights.
        for name, value in (("mean", mean), ("std", std), ("luma", luma)):
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channel size size"]:
        """`channel` is 1 for grey and 3 otherwise; a constant image standardised by itself is all zeros."""
        size = self.config.image_size
        if images.shape[-2:] != (size, size):
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)
        if self.config.grey:
            images = (images * self.luma).sum(1, keepdim=True)
        if self.config.standardise == "channels":
            return (images - self.mean) / self.std
        if self.config.standardise == "image":
            std, mean = torch.std_mean(images, dim=(1, 2, 3), keepdim=True)
            return (images - mean) / std.clamp(min=1 / 255)  # one step of an 8-bit image: noise is not blown up
        return images


def trained_encoder(config: EncoderConfig, weights: Mapping[str, Tensor]) -> Encoder:
    """The encoder within a method's state, as `engine.weights()` gives it, in evaluation mode on the CPU."""
    encoder = _blank(config)
    prefix = "encoder."
    encoder.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    return encoder.eval()


def save_encoder(encoder: Encoder, folder: str | Path, *, lineage: Mapping[str, Any]) -> str:
    """Write `encoder.safetensors` and `encoder.json` whole, replacing `folder`; returns the encoder's id.

    `lineage` is plain data (run, manifest hash, step ...) and is part of the identity, as are the weights.
    """
    with whole_folder(Path(folder)) as part:
        weights = part / "encoder.safetensors"
        save_file({name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}, weights)
        body = {
            "format": FORMAT,
            "architecture": dump(encoder.config),
            "dim": encoder.dim,
            "parts": {name: [part.start, part.stop] for name, part in encoder.parts.items()},
            "normalisation": "none; compare by cosine",
            "lineage": dict(lineage),
            "probes": _probes(encoder),
            "weights_sha256": _sha256(weights.read_bytes()),
        }
        identity = _identity(body)
        (part / "encoder.json").write_text(json.dumps({"id": identity, **body}, indent=2) + "\n", encoding="utf-8")
    return identity


def load_encoder(folder: str | Path, *, verify: bool = True) -> Encoder:
    """The encoder of a folder, on the CPU, in evaluation mode, with its `id`.

    `verify` encodes three generated probe images and compares: weights that load but mean something else are caught.

    >>> encoder = vf.load_encoder("runs/mine/pretrain/encoder")
    >>> encoder.config.backbone, encoder.dim
    ('resnet-small', 256)

    Raises:
        InvalidInput: no encoder there, or one of a newer format.
        ArtifactMismatch: the files are not those that were saved, or this machine computes other features from them.
    """
    folder = Path(folder)
    body = _read_body(folder / "encoder.json")
    weights = folder / "encoder.safetensors"
    if not weights.is_file():
        raise InvalidInput(f"{weights}: no such file; copy the whole encoder folder")
    identity = body.pop("id", None)
    if _sha256(weights.read_bytes()) != body.get("weights_sha256") or _identity(body) != identity:
        raise ArtifactMismatch(f"{folder}: its files are not those of encoder {identity}; copy or export it again")
    encoder = _blank(parse(EncoderConfig, body["architecture"], where=str(folder / "encoder.json")))
    try:
        encoder.load_state_dict(load_file(weights))
    except (RuntimeError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ArtifactMismatch(f"{folder}: weights of encoder {identity} do not fit this version: {reason}") from None
    encoder.id = identity
    encoder.eval()
    if verify:
        _compare_probes(encoder, body["probes"], folder)
    return encoder


def probe_images(image_size: int) -> Shaped[Tensor, "3 3 size size"]:
    """Three fixed uint8 images made of integer arithmetic alone: a ramp, a checkerboard, coloured bands."""
    row, column = torch.meshgrid(torch.arange(image_size), torch.arange(image_size), indexing="ij")
    ramp = torch.stack([row * 255 // image_size, column * 255 // image_size, (row + column) * 127 // image_size])
    board = ((row // 8 + column // 8) % 2 * 200 + 25).expand(3, -1, -1)
    bands = torch.stack([(row * 7 + channel * 85) % 256 for channel in range(3)])
    return torch.stack([ramp, board, bands]).to(torch.uint8)


def _blank(config: EncoderConfig) -> Encoder:
    """An encoder whose weights will be overwritten, so drawing them leaves the caller's generator alone."""
    with torch.random.fork_rng(devices=[]):
        return Encoder(config)


def _probes(encoder: Encoder) -> list[dict[str, Any]]:
    images = probe_images(encoder.config.preprocessing.image_size)
    features = encoder.encode(images).all
    return [
        {"image_sha256": _sha256(image.numpy().tobytes()), "features": feature.tolist()}
        for image, feature in zip(images, features, strict=True)
    ]


def _compare_probes(encoder: Encoder, expected: list[dict[str, Any]], folder: Path) -> None:
    for number, (want, have) in enumerate(zip(expected, _probes(encoder), strict=True)):
        if want["image_sha256"] != have["image_sha256"]:
            raise ArtifactMismatch(f"{folder}: encoder {encoder.id} was probed with other images than this version's")
        cosine = F.cosine_similarity(torch.tensor(want["features"]), torch.tensor(have["features"]), dim=0).item()
        if not cosine >= SAME_FEATURES:  # written so that nan is refused too
            raise ArtifactMismatch(
                f"{folder}: encoder {encoder.id} gives other features here than where it was saved "
                f"(probe {number}: cosine {cosine:.6f}, at least {SAME_FEATURES} expected)"
            )


def _output_dim(backbone: nn.Module, config: EncoderConfig, channels: int) -> int:
    """Found by encoding one blank image: timm's own attributes disagree for models with a head of their own."""
    size, training = config.preprocessing.image_size, backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            shape = backbone(torch.zeros(1, channels, size, size)).shape
    except (AssertionError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InvalidInput(f"backbone {config.backbone!r} does not take {size} px images: {reason}") from None
    backbone.train(training)
    if len(shape) != 2:
        raise InvalidInput(
            f"backbone {config.backbone!r} gives {list(shape)}, not one vector per image; choose another"
        )
    return math.prod(shape)


def _unit_range(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images


def _read_body(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InvalidInput(f"{path}: no such file; name an encoder folder (a run keeps its own under encoder/)")
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactMismatch(f"{path}: not JSON ({error}); copy or export the encoder again") from None
    if not isinstance(body, dict):
        raise ArtifactMismatch(f"{path}: not a JSON object; copy or export the encoder again")
    if body.get("format") != FORMAT:
        raise InvalidInput(f"{path}: encoder format {body.get('format')}, this version reads {FORMAT}; export it again")
    return body


def _identity(body: Mapping[str, Any]) -> str:
    """`body` holds the digest of the weights, so this covers both files."""
    return _sha256(json.dumps(body, sort_keys=True).encode())[:16]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
