"""What of an encoder a training changes; the rest gets no gradient, no weight decay and no new BatchNorm statistics."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn

from viewfold.config import Config
from viewfold.errors import InvalidInput
from viewfold.ssl.adapter import AdapterConfig
from viewfold.ssl.encoder import Encoder


@dataclass(frozen=True, kw_only=True)
class TrainableConfig(Config):
    """Which part of the encoder learns."""

    what: Literal["full", "last_blocks", "adapter", "head"] = "full"
    """`full`: everything; `last_blocks`: the backbone's last blocks and all layers behind them; `adapter`: a small
    residual map behind the backbone; `head`: a linear map behind it. The last two become part of the encoder."""
    blocks: int = 1
    """How many of the last blocks learn; read by `last_blocks` only."""
    width: int = AdapterConfig.width
    """Hidden features of the adapter, 0 for none between; read by `adapter` only."""
    dim: int = 0
    """Features that the head gives, 0: as many as the backbone; read by `head` only."""

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise ValueError(f"blocks must be at least 1, got {self.blocks}")
        reads = {"last_blocks": "blocks", "adapter": "width", "head": "dim"}.get(self.what)
        for name in ("blocks", "width", "dim"):
            if name != reads and getattr(self, name) != getattr(TrainableConfig, name):
                raise ValueError(f"{name} has no effect where {self.what} learns; leave it out")
        if self.width < 0 or self.dim < 0:
            raise ValueError(f"width and dim must be 0 or more, got {self.width} and {self.dim}")

    @property
    def adapter(self) -> AdapterConfig | None:
        """The map that learns in place of the backbone, if one does."""
        if self.what == "adapter":
            return AdapterConfig(kind="residual", width=self.width)
        return AdapterConfig(kind="linear", dim=self.dim) if self.what == "head" else None


def set_trainable(encoder: Encoder, config: TrainableConfig) -> None:
    """Freeze what is not to learn and add the adapter where there is none yet, in place. Call it before the heads of a
    method are built: the features may become more or fewer.

    Raises:
        InvalidInput: more blocks than the backbone has, or another adapter behind it already.
    """
    if config.what == "last_blocks":
        encoder.freeze(but=_last(encoder.backbone, config.blocks, encoder.config.backbone))
    if config.adapter is not None:
        encoder.freeze()
        if encoder.adapter is None:
            encoder.add_adapter(config.adapter)
        elif encoder.config.adapter != config.adapter:
            raise InvalidInput(
                f"this encoder has an adapter already ({encoder.config.adapter}), and train.what={config.what} asks "
                f"for {config.adapter}; give it the same settings to go on with it, or begin with the encoder before it"
            )


def block_names(backbone: nn.Module) -> list[str]:
    """Names of the blocks, first to last: the elements of its lists of layers, none within another."""
    return [name for name, is_block in _units(backbone) if is_block]


def _last(backbone: nn.Module, blocks: int, name: str) -> list[str]:
    """The last `blocks` blocks, by name, and all that comes behind them."""
    names = block_names(backbone)
    if blocks > len(names):
        raise InvalidInput(f"train.blocks={blocks}: backbone {name!r} has {len(names)} blocks; choose at most that")
    units = [unit for unit, _ in _units(backbone)]
    return units[units.index(names[-blocks]) :]


def _units(module: nn.Module, path: str = "") -> Iterator[tuple[str, bool]]:
    """Names of the modules that together are all of `module`, in its order, and whether each is a block."""
    # Exactly these two: torchvision's blocks are subclasses of Sequential.
    in_list = type(module) in (nn.Sequential, nn.ModuleList)
    for name, child in module.named_children():
        here = f"{path}{name}"
        if next(child.parameters(), None) is None:
            continue
        nested = [c for c in child.modules() if type(c) in (nn.Sequential, nn.ModuleList)]
        if nested and not (in_list and type(child) not in (nn.Sequential, nn.ModuleList)):
            yield from _units(child, f"{here}.")
        else:
            yield here, in_list
