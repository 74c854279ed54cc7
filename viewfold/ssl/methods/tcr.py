"""TCR: features that fill the sphere while the views of a sample agree: stage 1 of NMCE and MLC.

L = -R - invariance * agreement; arXiv:2201.10000, section 3.2, and arXiv:2301.01805, equation 5.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.config import check_ranges
from viewfold.ssl.dist import world_size
from viewfold.ssl.encoder import Encoder
from viewfold.ssl.losses import Rate, coding_rate
from viewfold.ssl.methods.method import Method, Outcome, Task, by_part
from viewfold.ssl.methods.subspace import SubspaceMethodConfig, batch_rank, build_head, subspace_features
from viewfold.ssl.methods.view_pairs import check_views, pairs
from viewfold.ssl.precision import in_float32
from viewfold.ssl.subspace_head import SubspaceHead, unit_rows
from viewfold.values import Views

Form = Literal["average", "mean", "unit_average"]
Agreement = Literal["mean_cosine", "sum_abs_cosine"]


@dataclass(frozen=True, kw_only=True)
class TCRConfig(SubspaceMethodConfig):
    """Weights and conventions of TCR; the defaults are those of NMCE's code."""

    name: Literal["tcr"] = "tcr"
    eps_sq: float = 0.2
    """Squared error to which rows are coded, above 0: papers write its root, public code calls it `eps`."""
    form: Form = "mean"
    """The rate that grows: `mean` of the views' own rates (NMCE); that of the views' `average` as it is (MLC's paper);
    that of the average scaled to length 1 (`unit_average`)."""
    invariance: float = 30.0
    """Weight of the agreement of a sample's views."""
    agreement: Agreement = "mean_cosine"
    """What agreement is: the `mean_cosine` over samples (NMCE's code), or, in MLC's paper, the sum over samples of
    its absolute value. 30 of the first is 60 / batch of the second with `half` off."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, invariance=(0, math.inf))


class TCR(Method):
    """An encoder and a subspace head with one linear map; two views or more."""

    config_class = TCRConfig

    def __init__(self, config: TCRConfig, encoder: Encoder, head: SubspaceHead) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.head: SubspaceHead = head

    @classmethod
    def build(cls, config: TCRConfig, encoder: Encoder, task: Task) -> "TCR":
        """Starts from the head that was kept with the encoder, where there is one."""
        check_views(task, method="tcr")
        return cls(config, encoder, build_head(config, encoder, task.head, heads="one"))

    def forward(self, views: Views) -> Outcome:
        features = subspace_features(self.encoder, views, frozen=self.config.frozen_encoder)
        z, _ = self.head(features[:, :, self.encoder.parts[self.config.part]])
        terms, facts = tcr_terms(z, self.config)
        return Outcome(terms=terms, features=by_part(self.encoder, features.flatten(0, 1)), facts=facts)


def tcr_terms(z: Float[Tensor, "view batch dim"], config: TCRConfig) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """TCR's weighted terms and what to log, of the unit rows of each view. Rows are this rank's."""
    rate = views_rate(z, form=config.form, eps_sq=config.eps_sq, half=config.half)
    terms = {"expansion": -rate.nats, "invariance": -config.invariance * view_agreement(z, kind=config.agreement)}
    facts = {
        "rate": rate.nats.detach(),
        "cosine": view_agreement(z.detach(), kind="mean_cosine"),
        "z_rank": batch_rank(z.flatten(0, 1)),
        "cholesky_fallbacks": rate.fallbacks,
    }
    return terms, facts


def views_rate(z: Float[Tensor, "view batch dim"], *, form: Form, eps_sq: float, half: bool) -> Rate:
    """The rate of several views of a batch, as `TCRConfig.form` says; of the rows of all ranks."""
    if form == "mean":
        rates = [coding_rate(view, eps_sq=eps_sq, half=half) for view in z]
        nats, fallbacks = (torch.stack(values) for values in zip(*rates, strict=True))
        return Rate(nats.mean(), fallbacks.sum())
    average = z.mean(0)
    return coding_rate(unit_rows(average) if form == "unit_average" else average, eps_sq=eps_sq, half=half)


@in_float32
def view_agreement(z: Float[Tensor, "view batch dim"], *, kind: Agreement) -> Float[Tensor, ""]:
    """How far the views of a sample agree, the mean over their pairs. Its mean over ranks is the global batch's."""
    first, second = pairs(z)
    cosine: Tensor = (first * second).sum(1)
    num_samples = z.shape[1] * world_size()
    return cosine.mean() if kind == "mean_cosine" else num_samples * cosine.abs().mean()
