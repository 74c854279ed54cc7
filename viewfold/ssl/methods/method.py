"""What a method is: an encoder plus what trains it, from views to named loss terms."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from viewfold.config import Config
from viewfold.errors import InvalidInput
from viewfold.ssl.batchnorm import each_view
from viewfold.ssl.encoder import Encoder
from viewfold.ssl.equivariant import EquivariantHead, HeadConfig
from viewfold.ssl.predictors import PredictorConfig
from viewfold.ssl.subspace_head import SubspaceHead
from viewfold.values import Views


class MethodConfig(Config):
    """Base of the methods' configurations; each declares `name` as the Literal under which its method is registered."""

    name: str

    @property
    def needs_labels(self) -> bool:
        """Whether samples without a label teach nothing."""
        return False


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
    num_views: int = 2
    """Of each sample."""
    batch_size: int = 1024
    """Samples in a batch of all ranks."""
    seed: int = 0
    """Of what a method draws by itself."""
    paired: bool = False
    """Whether the two views are of mined pairs, and `Views.parent` says of which clusters."""
    head: SubspaceHead | None = None
    """The subspace head that was kept with the encoder from which the training starts."""


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
        self.head: EquivariantHead | SubspaceHead | None = None
        """What predicts one view from another, or gives features and codes of subspaces, where the method trains such a
        thing; kept with the encoder."""

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


def check_two_views(task: Task, *, method: str) -> None:
    """For `build`: raises InvalidInput for a method that compares two views of a sample where there are others."""
    if task.num_views != 2:
        raise InvalidInput(
            f"method {method} compares two views, and there are {task.num_views}; choose a policy that draws two, or "
            "set stream.images_per_sample=2"
        )


def check_part(part: str, encoder: Encoder, *, method: str) -> None:
    """For `build`: raises InvalidInput where the part of the features that a method reads is empty."""
    columns = encoder.parts[part]
    if columns.start == columns.stop:
        raise InvalidInput(
            f"method {method} reads the {part} part of the features and it is empty; choose another part or "
            f"encoder.equivariant_dim between 1 and {encoder.dim - 1}"
        )


def pair_features(encoder: Encoder, views: Views, *, method: str) -> Float[Tensor, "2 batch dim"]:
    """Features of both views of each sample, for a method that compares two.

    Raises:
        InvalidInput: another number of views; names the method.
    """
    if len(views.images) != 2:
        raise InvalidInput(
            f"method {method} compares two views, got {len(views.images)}; choose a policy that draws two, or "
            "set stream.images_per_sample=2"
        )
    return each_view(encoder, views.images)


@runtime_checkable
class FollowsTransformation(Protocol):
    """The settings from which a method builds its equivariant head."""

    @property
    def transformation(self) -> str: ...
    @property
    def expander_widths(self) -> tuple[int, ...]: ...
    @property
    def predictor(self) -> PredictorConfig: ...


def equivariant_head(config: FollowsTransformation, encoder: Encoder, *, part: str, num_params: int) -> EquivariantHead:
    """A head on one part of the encoder's features, for transformations of `num_params` numbers."""
    columns = encoder.parts[part]
    return EquivariantHead(
        HeadConfig(
            part=part,
            part_dim=columns.stop - columns.start,
            transformation=config.transformation,
            num_params=num_params,
            widths=config.expander_widths,
            predictor=config.predictor,
        )
    )


def check_tau(tau: float) -> None:
    """For `__post_init__`: raises ValueError unless the temperature is above 0."""
    if tau <= 0:
        raise ValueError(f"tau must be above 0, got {tau}")


def check_unread(config: MethodConfig, *names: str, where: str) -> None:
    """For `__post_init__`: fields that nothing reads `where` must keep their defaults, so that none is set in vain."""
    for name in names:
        if getattr(config, name) != getattr(type(config), name):
            raise ValueError(f"{name} has no effect {where}; leave it out")
