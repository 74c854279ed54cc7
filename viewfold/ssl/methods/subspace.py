"""What the methods of coding rates share: settings, the head and where it starts, shares of a rate, the rank of Z."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from viewfold.config import check_ranges
from viewfold.errors import InvalidInput
from viewfold.ssl.batchnorm import each_view
from viewfold.ssl.dist import rank, sum_over_ranks, world_size
from viewfold.ssl.encoder import Encoder
from viewfold.ssl.losses import Rate, partition_rate
from viewfold.ssl.methods.method import MethodConfig, check_part
from viewfold.ssl.precision import in_float32
from viewfold.ssl.subspace_head import SubspaceHead, SubspaceHeadConfig
from viewfold.values import Views


@dataclass(frozen=True, kw_only=True)
class SubspaceMethodConfig(MethodConfig):
    """Base of the configurations of methods that train a subspace head; each sets `name` and `eps_sq`."""

    name: str
    part: Literal["all", "equivariant", "invariant"] = "invariant"
    """The part of the features that the head reads."""
    hidden_widths: tuple[int, ...] = (4096,)
    """Of the layers of the head's trunk; none for linear heads on the bare features."""
    dim: int = 128
    """Width of the features Z and the codes C that the head gives."""
    eps_sq: float
    """Squared error to which rows are coded, above 0: papers write its root, public code calls it `eps`."""
    half: bool = True
    """Halve the rates, as the public code of MCR2 and its descendants does and MLC's paper does not; beside halved
    rates the weight of any other term counts twice."""
    frozen_encoder: bool = False
    """Leave the encoder as it is, BatchNorm's running statistics included, and train heads alone."""

    def __post_init__(self) -> None:
        check_ranges(self, dim=(2, math.inf))
        if any(width < 1 for width in self.hidden_widths):
            raise ValueError(f"hidden_widths must be widths of at least 1, got {self.hidden_widths}")
        if self.eps_sq <= 0:
            raise ValueError(f"eps_sq must be above 0, got {self.eps_sq}")


def build_head(
    config: SubspaceMethodConfig, encoder: Encoder, kept: SubspaceHead | None, *, heads: Literal["one", "two"]
) -> SubspaceHead:
    """The head that `config` describes, with the weights of the one that was `kept`, or new ones where there is none.

    A second head starts as a copy of the first if only one was kept. A frozen encoder takes no gradient from here on.

    Raises:
        InvalidInput: the part is empty, or the kept head is another than the configuration's.
    """
    check_part(config.part, encoder, method=config.name)
    columns = encoder.parts[config.part]
    width = columns.stop - columns.start
    head = SubspaceHead(
        SubspaceHeadConfig(
            part=config.part, part_dim=width, hidden_widths=config.hidden_widths, dim=config.dim, heads=heads
        )
    )
    if kept is not None:
        _take(head, kept, method=config.name)
    if config.frozen_encoder:
        encoder.requires_grad_(False)
    return head


def subspace_features(encoder: Encoder, views: Views, *, frozen: bool) -> Float[Tensor, "view batch dim"]:
    """Features of every view; of a `frozen` encoder in evaluation mode and outside the graph."""
    if not frozen:
        return each_view(encoder, views.images)
    encoder.eval()  # here, since engines put the whole method into training mode
    with torch.no_grad():
        return each_view(encoder, views.images)


def shared_partition_rate(
    z: Float[Tensor, "rows dim"],
    membership: Float[Tensor, "rows cluster"],
    *,
    eps_sq: float,
    half: bool,
    columns: Int[Tensor, " drawn"] | None = None,
) -> Rate:
    """`partition_rate` of the rows of all ranks, each rank doing its share of the clusters.

    The mean over ranks is the rate. With `columns`, that of these clusters alone, each by its own share of the rows:
    the estimate sum_J s_j logdet_j / sum_J s_j.
    """
    chosen = membership if columns is None else membership.index_select(1, columns)
    total = None if columns is None else chosen.sum()
    share = chosen.tensor_split(world_size(), dim=1)[rank()]
    found = partition_rate(z, share, total, eps_sq=eps_sq, half=half)
    return Rate(found.nats * world_size(), found.fallbacks * world_size())


@torch.no_grad()
@in_float32
def batch_rank(z: Float[Tensor, "batch dim"], *, share: float = 0.95) -> Float[Tensor, ""]:
    """Fewest directions that hold more than `share` of the squared length of all ranks' rows: arXiv:2301.01805, 4.3."""
    gram_DD = sum_over_ranks(z.T @ z)
    # Not a number fails the decomposition, and then nobody would learn which term it began in.
    sizes = torch.linalg.eigvalsh(gram_DD.nan_to_num(0, 0, 0)).flip(0).clamp(min=0)
    fewest: Tensor = (sizes.cumsum(0) <= share * sizes.sum()).sum() + 1
    return fewest.float()


def _take(head: SubspaceHead, kept: SubspaceHead, *, method: str) -> None:
    wanted, own = head.config, kept.config
    for name in ("part", "part_dim", "hidden_widths", "dim"):
        if getattr(wanted, name) != getattr(own, name):
            raise InvalidInput(
                f"the encoder was kept with a subspace head of {name} {getattr(own, name)}, method {method} has "
                f"{getattr(wanted, name)}; set both alike, or start from a copy of the encoder without its head folder"
            )
    head.trunk.load_state_dict(kept.trunk.state_dict())
    head.feature.load_state_dict(kept.feature.state_dict())
    if head.cluster is not None:
        head.cluster.load_state_dict((kept.feature if kept.cluster is None else kept.cluster).state_dict())
