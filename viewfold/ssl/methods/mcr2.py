"""MCR2: all features together take the most room, those of one class or sample the least (arXiv:2006.08558).

Maximises Delta R = R(Z) - R_c(Z, partition), equation 11.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from viewfold.config import check_ranges
from viewfold.errors import InvalidInput
from viewfold.ssl.dist import gather_rows, gather_values
from viewfold.ssl.encoder import Encoder
from viewfold.ssl.losses import Rate, coding_rate, partition_rate
from viewfold.ssl.methods.method import Method, Outcome, Task, by_part
from viewfold.ssl.methods.subspace import (
    SubspaceMethodConfig,
    batch_rank,
    build_head,
    shared_partition_rate,
    subspace_features,
)
from viewfold.ssl.methods.view_pairs import check_views
from viewfold.ssl.precision import in_float32
from viewfold.ssl.subspace_head import SubspaceHead
from viewfold.values import Views


@dataclass(frozen=True, kw_only=True)
class MCR2Config(SubspaceMethodConfig):
    """Partition and weights of MCR2; the defaults are those of its supervised training."""

    name: Literal["mcr2"] = "mcr2"
    eps_sq: float = 0.5
    """Squared error to which rows are coded, above 0: papers write its root, public code calls it `eps`."""
    partition: Literal["labels", "samples"] = "labels"
    """What is to take little room: the samples of one label, unlabelled ones being left out; or the views of one
    sample, without labels."""
    gamma1: float = 1.0
    """Multiplies the covariance inside R, above 0; self-supervised MCR2 takes 20."""
    gamma2: float = 1.0
    """Weight of R; self-supervised MCR2 takes 0.05."""

    @property
    def needs_labels(self) -> bool:
        return self.partition == "labels"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, gamma2=(0, math.inf))
        if self.gamma1 <= 0:
            raise ValueError(f"gamma1 must be above 0, got {self.gamma1}")


class MCR2(Method):
    """An encoder and a subspace head with one linear map; any number of views, two or more to part them by sample."""

    config_class = MCR2Config

    def __init__(self, config: MCR2Config, encoder: Encoder, head: SubspaceHead) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.head: SubspaceHead = head

    @classmethod
    def build(cls, config: MCR2Config, encoder: Encoder, task: Task) -> "MCR2":
        """Starts from the head that was kept with the encoder, where there is one."""
        if config.partition == "samples":
            check_views(task, method="mcr2")
        elif task.num_labels < 2:
            raise InvalidInput(
                f"method mcr2 needs samples of two classes or more, the data has {task.num_labels}; label it, or "
                "choose partition: samples"
            )
        return cls(config, encoder, build_head(config, encoder, task.head, heads="one"))

    def forward(self, views: Views) -> Outcome:
        features = subspace_features(self.encoder, views, frozen=self.config.frozen_encoder)
        z, _ = self.head(features[:, :, self.encoder.parts[self.config.part]])
        terms, facts = mcr2_terms(z, views.label, self.config)
        return Outcome(terms=terms, features=by_part(self.encoder, features.flatten(0, 1)), facts=facts)


def mcr2_terms(
    z: Float[Tensor, "view batch dim"], label: Int[Tensor, " batch"], config: MCR2Config
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """MCR2's weighted terms, and as facts the rates without gamma. Rows and labels are this rank's.

    A batch without a label has a rate of 0.
    """
    rates = _sample_rates(z, config) if config.partition == "samples" else _label_rates(z, label, config)
    rate, clusters = rates.rate.nats.detach(), rates.clusters.nats
    terms = {"expansion": -config.gamma2 * rates.expansion.nats, "compression": clusters}
    facts = {
        "rate": rate,
        "rate_clusters": clusters.detach(),
        "rate_reduction": rate - clusters.detach(),
        "z_rank": batch_rank(z.flatten(0, 1)),
        "cholesky_fallbacks": rates.expansion.fallbacks + rates.clusters.fallbacks,
    }
    return terms, facts


@in_float32
def sample_rate(z: Float[Tensor, "view batch dim"], *, eps_sq: float, half: bool) -> Float[Tensor, ""]:
    """R_c of the partition into samples, each with its views for members. Its mean over ranks is the global batch's.

    By the view x view form of the log det, which needs no other sample: a cluster has fewer members than dimensions.
    """
    num_views, _, dim = z.shape
    wide = z.transpose(0, 1).double()  # tiny matrices: exact costs nothing
    gram_NVV = wide @ wide.transpose(1, 2)
    covariance_NVV = torch.eye(num_views).to(gram_NVV) + dim / (num_views * eps_sq) * gram_NVV
    factor_NVV, _ = torch.linalg.cholesky_ex(covariance_NVV)
    log_det = 2 * factor_NVV.diagonal(dim1=1, dim2=2).log().sum(1).mean()
    halved: Tensor = (0.5 if half else 1.0) * log_det
    return halved.to(z.dtype)


class _Rates(NamedTuple):
    expansion: Rate
    """R with gamma1 inside."""
    rate: Rate
    """R."""
    clusters: Rate
    """R_c."""


def _sample_rates(z: Float[Tensor, "view batch dim"], config: MCR2Config) -> _Rates:
    eps_sq, half, rows = config.eps_sq, config.half, z.flatten(0, 1)
    # The factor before the covariance is dim / (rows eps_sq).
    expansion = coding_rate(rows, eps_sq=eps_sq / config.gamma1, half=half)
    rate = expansion if config.gamma1 == 1 else coding_rate(rows.detach(), eps_sq=eps_sq, half=half)
    return _Rates(expansion, rate, Rate(sample_rate(z, eps_sq=eps_sq, half=half), torch.zeros_like(rate.fallbacks)))


def _label_rates(z: Float[Tensor, "view batch dim"], label: Int[Tensor, " batch"], config: MCR2Config) -> _Rates:
    everyone, every_label = gather_rows(z.transpose(0, 1).contiguous()), gather_values(label)
    known = every_label >= 0
    rows = everyone[known].flatten(0, 1)
    if not len(rows):
        nothing = Rate(z.sum() * 0, torch.zeros((), dtype=torch.long, device=z.device))
        return _Rates(nothing, nothing, nothing)
    classes, cluster = torch.unique(
        every_label[known], return_inverse=True
    )  # a class without a sample would have no rate
    membership = (cluster[:, None] == torch.arange(len(classes), device=z.device)).to(z).repeat_interleave(len(z), 0)
    eps_sq, half, together = config.eps_sq, config.half, rows.new_ones(len(rows), 1)
    expansion = partition_rate(rows, together, eps_sq=eps_sq / config.gamma1, half=half)
    rate = expansion if config.gamma1 == 1 else partition_rate(rows.detach(), together, eps_sq=eps_sq, half=half)
    return _Rates(expansion, rate, shared_partition_rate(rows, membership, eps_sq=eps_sq, half=half))
