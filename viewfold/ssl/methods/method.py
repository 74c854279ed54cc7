"""What a method is: an encoder plus what trains it, from views to named loss terms."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from viewfold.config import Config
from viewfold.ssl.encoder import Encoder
from viewfold.ssl.equivariant import EquivariantHead
from viewfold.values import Views


class MethodConfig(Config):
    """Base of the methods' configurations; each declares `name` as the Literal under which its method is registered."""

    name: str


@dataclass(frozen=True)
class Task:
    """What the data offers to a method."""

    param_names: tuple[str, ...]
    """Columns of `Views.params`; empty when the views record none."""
    num_labels: int
    """Classes in the manifest; 0 when nothing is labelled."""
    num_domains: int = 0
    """Domains in the manifest."""
    relative_names: tuple[str, ...] = ()
    """Columns of `Views.relative`; empty when nothing that the views differ in is drawn."""


@dataclass(frozen=True)
class Outcome:
    """What a method makes of one batch of views."""

    terms: dict[str, Tensor]
    """Weighted scalars whose sum is the loss. Of each, the mean over ranks is the global batch's value: log that."""
    features: dict[str, Tensor]
    """Detached features `[view * batch, width]` of this rank's rows, by part of the encoder, for watching them."""
    facts: dict[str, Tensor] = field(default_factory=dict)
    """Scalars worth logging that are no part of the loss."""


class Method(nn.Module, ABC):
    """Abstract: an encoder and the heads that train it. A new method is one file and one line of `METHODS`."""

    config_class: ClassVar[type[MethodConfig]]
    encoder: Encoder

    def __init__(self) -> None:
        super().__init__()
        self.head: EquivariantHead | None = None
        """Predicts one view from another, where the method trains such a thing; kept for measuring."""

    @classmethod
    @abstractmethod
    def build(cls, config: Any, encoder: Encoder, task: Task) -> "Method":
        """The method around `encoder`, from a `config_class`; its heads are drawn from torch's global generator.

        Raises:
            InvalidInput: the encoder, or the data of `task`, lacks what the method needs.
        """

    @abstractmethod
    def forward(self, views: Views) -> Outcome:
        """Loss terms of this rank's views."""


def by_part(encoder: Encoder, features: Tensor) -> dict[str, Tensor]:
    """Detached columns of `features` for each part of the encoder that has any."""
    return {name: features.detach()[:, part] for name, part in encoder.parts.items() if part.start < part.stop}
