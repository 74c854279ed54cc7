"""A small map behind a backbone: what is learned of an encoder whose own weights stay as they are.

Every map that keeps the number of features starts as the identity, bit for bit: an adapted encoder that has learned
nothing yet is the encoder it was made from.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from viewfold.config import Config
from viewfold.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class AdapterConfig(Config):
    """Form of the map."""

    kind: Literal["residual", "linear"] = "residual"
    """`residual`: x + U gelu(D x + d) + u, where U and u start at zero; `linear`: W x + b, where b starts at zero and W
    at the identity, or at random orthogonal rows where `dim` is not that of the backbone."""
    width: int = 256
    """Hidden features of `residual`; 0: x + U x + u, with nothing between."""
    dim: int = 0
    """Features that `linear` gives; 0: as many as the backbone."""

    def __post_init__(self) -> None:
        for name in ("width", "dim"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.kind == "residual" and self.dim:
            raise ValueError(f"dim={self.dim} has no effect on a residual adapter, which keeps the features; drop it")
        if self.kind == "linear" and self.width != AdapterConfig.width:
            raise ValueError(f"width={self.width} has no effect on a linear adapter; drop it")


class Adapter(nn.Module):
    """Features to features. Weights that are not fixed come from torch's global generator."""

    def __init__(self, config: AdapterConfig, features: int) -> None:
        """`features` is the number that come in."""
        super().__init__()
        self.residual = config.kind == "residual"
        self.dim = config.dim or features
        self.down = nn.Linear(features, config.width) if self.residual and config.width else None
        self.up = nn.Linear(config.width if self.down is not None else features, self.dim)
        nn.init.zeros_(self.up.bias)
        if self.residual:
            nn.init.zeros_(self.up.weight)
        elif self.dim == features:
            nn.init.eye_(self.up.weight)
        else:
            nn.init.orthogonal_(self.up.weight)

    def forward(self, features: Float[Tensor, "row features"]) -> Float[Tensor, "row {self.dim}"]:
        """The adapted features; not normalised."""
        hidden = features if self.down is None else F.gelu(self.down(features))
        mapped: Tensor = self.up(hidden)
        return features + mapped if self.residual else mapped


def check_adapter_fits(config: AdapterConfig, equivariant_dim: int) -> None:
    """Raises InvalidInput where the parts of the features would be mixed by the map."""
    if equivariant_dim:
        raise InvalidInput(
            f"an adapter ({config.kind}) maps all features together, and the last {equivariant_dim} of this encoder "
            "follow the transformation; adapt an encoder with equivariant_dim 0, or train the whole of it"
        )
