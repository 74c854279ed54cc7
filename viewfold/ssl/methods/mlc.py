"""MLC: features and clusters at once, each sample a cluster of those that its code is near to (arXiv:2301.01805).

Maximises R(Z) - R_c(Z, Gamma), equation 4, where Gamma, the doubly stochastic membership, is made from the codes C.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from viewfold.config import check_ranges
from viewfold.errors import InvalidInput
from viewfold.keyed import generator
from viewfold.ssl.dist import gather_rows, world_size
from viewfold.ssl.encoder import Encoder
from viewfold.ssl.losses import coding_rate
from viewfold.ssl.methods.method import Method, Outcome, Task, by_part, check_unread
from viewfold.ssl.methods.subspace import (
    SubspaceMethodConfig,
    batch_rank,
    build_head,
    shared_partition_rate,
    subspace_features,
)
from viewfold.ssl.methods.tcr import view_agreement
from viewfold.ssl.sinkhorn import Kernel, Solver, batch_eta, code_kernel, doubly_stochastic, membership_facts
from viewfold.ssl.subspace_head import SubspaceHead, unit_rows
from viewfold.values import Views


@dataclass(frozen=True, kw_only=True)
class MLCConfig(SubspaceMethodConfig):
    """Membership, weights and stages of MLC; the defaults are the paper's where it says, else those of CPP."""

    name: Literal["mlc"] = "mlc"
    eps_sq: float = 0.1
    """Squared error to which rows are coded, above 0: papers write its root, public code calls it `eps`."""
    heads: Literal["one", "two"] = "two"
    """`two`: the codes have a linear map of their own, which starts as that of the features. `one`: they are the
    features, as in CPP's run on ImageNet."""
    kernel: Kernel = "abs"
    """Nearness of two codes: their cosine without its sign (public code), or as it is (`inner`: the paper)."""
    eta: float = 0.175
    """Weight of the membership's entropy, above 0: the knob to tune, .09 (many small clusters) to .2 (few). It holds
    for `eta_batch` rows."""
    eta_batch: int = 1024
    """Rows of a batch, of all ranks, that `eta` was chosen for: another batch gets the eta of like sparsity."""
    solver: Solver = "averaged"
    """Of the projection: see `ssl.sinkhorn`; `alternating` is the public code's, `implicit` is exact and slow."""
    iterations: int = 5
    """Steps, or for `alternating` half-steps, of the projection."""
    gamma_weight: float = 0.0
    """Weight of half the membership's squared norm, which says how much samples keep to themselves: 0 in the paper,
    0.05 in CPP."""
    columns: int = 0
    """Clusters drawn anew for each step, of which alone R_c is taken; 0, or as many as the batch has rows: all."""
    invariance: float = 0.0
    """Weight of the mean cosine of a sample's views, against features that drift apart; not in the paper."""
    warmup_steps: int = 0
    """First steps, in which R alone is maximised and the codes stay equal to the features: CPP's way to start on the
    features of an encoder that no subspace head was kept with. Keep them few, since nothing else holds the features."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, eta_batch=(2, math.inf), iterations=(1, math.inf))
        check_ranges(self, **dict.fromkeys(("gamma_weight", "columns", "invariance", "warmup_steps"), (0, math.inf)))
        if self.eta <= 0:
            raise ValueError(f"eta must be above 0, got {self.eta}")
        if self.solver == "alternating" and self.iterations % 2 == 0:
            raise ValueError(f"iterations must be odd with solver: alternating, got {self.iterations}")
        if self.solver == "implicit":
            check_unread(self, "iterations", where="with solver: implicit")


class MLC(Method):
    """An encoder and a subspace head, with a linear map for the codes if `heads` is `two`; any number of views.

    It goes on from the head that was kept with the encoder; where only the features' map was kept, that of the codes
    starts as its copy. Without a kept head it begins with `warmup_steps`.
    """

    config_class = MLCConfig
    steps_begun: Tensor

    def __init__(self, config: MLCConfig, encoder: Encoder, head: SubspaceHead, *, seed: int = 0) -> None:
        """`seed` is that of the clusters that are drawn."""
        super().__init__()
        self.config = config
        self.seed = seed
        self.encoder = encoder
        self.head: SubspaceHead = head
        # With the weights in every checkpoint: draws and warm-up go on where they stopped.
        self.register_buffer("steps_begun", torch.zeros((), dtype=torch.int64))

    @classmethod
    def build(cls, config: MLCConfig, encoder: Encoder, task: Task) -> "MLC":
        if task.head is None and config.warmup_steps == 0:
            raise InvalidInput(
                "method mlc goes on from a subspace head and none was kept with this encoder; start from an encoder "
                "that method tcr trained, or set method.warmup_steps=50 to begin with a new head"
            )
        batch_eta(config.eta, task.batch_size, reference_rows=config.eta_batch)  # refuses a batch that has none
        if task.head is not None and task.head.cluster is not None and (config.warmup_steps or config.heads == "one"):
            raise InvalidInput(
                "the kept head has learned codes, which method.warmup_steps would overwrite and method.heads=one drop; "
                "set 0 and two"
            )
        if config.invariance > 0 and task.num_views < 2:
            raise InvalidInput(
                "invariance compares the views of a sample and there is one; choose a policy, or leave it out"
            )
        head = build_head(config, encoder, task.head, heads=config.heads)
        if config.warmup_steps > 0:
            head.copy_feature_head()  # a warm-up keeps equal what starts equal
        return cls(config, encoder, head, seed=task.seed)

    def forward(self, views: Views) -> Outcome:
        config, step = self.config, self._begin_step()
        features = subspace_features(self.encoder, views, frozen=config.frozen_encoder)
        hidden = self.head.hidden(features[:, :, self.encoder.parts[config.part]])
        z, codes = self.head.project(hidden)
        if step < config.warmup_steps:
            terms, facts = warmup_terms(z, config)
            if self.head.cluster is not None:
                _, twin = self.head.project(hidden.detach())
                terms["codes"] = _gradient_alone(warmup_terms(twin, config)[0])
        else:
            columns = draw_columns(config.columns, world_size() * z.shape[1], step=step, seed=self.seed)
            columns = None if columns is None else columns.to(z.device)
            terms, facts = mlc_terms(z, codes, config, columns=columns)
        return Outcome(terms=terms, features=by_part(self.encoder, features.flatten(0, 1)), facts=facts)

    def _begin_step(self) -> int:
        """Number of this step, from 0; evaluation counts none."""
        step = int(self.steps_begun)
        if self.training:
            self.steps_begun += 1
        return step


def mlc_terms(
    z: Float[Tensor, "view batch dim"],
    codes: Float[Tensor, "view batch dim"],
    config: MLCConfig,
    *,
    columns: Int[Tensor, " drawn"] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """MLC's weighted terms and what to log, of the unit rows of each view: arXiv:2301.01805, equations 4 and 6.

    Z is the views' average scaled to length 1, and Gamma the average of the views' memberships, over the rows of all
    ranks. Rows are this rank's; `columns` are of the global batch and the same on all ranks.
    """
    average = unit_rows(z.mean(0))
    # One message for all that looks at the whole batch.
    everyone = gather_rows(torch.cat([average[:, None], codes.transpose(0, 1)], dim=1)).transpose(0, 1)
    gamma = membership(everyone[1:], config)
    rate = coding_rate(average, eps_sq=config.eps_sq, half=config.half)
    clusters = shared_partition_rate(everyone[0], gamma, eps_sq=config.eps_sq, half=config.half, columns=columns)
    terms = {"expansion": -rate.nats, "compression": clusters.nats}
    if config.gamma_weight > 0:
        terms["membership"] = config.gamma_weight / 2 * gamma.square().sum()
    facts = {
        "rate": rate.nats.detach(),
        "rate_clusters": clusters.nats.detach(),
        "rate_reduction": (rate.nats - clusters.nats).detach(),
        "z_rank": batch_rank(average),
        "cholesky_fallbacks": rate.fallbacks + clusters.fallbacks,
        **membership_facts(gamma.detach()),
    }
    return terms | _invariance(z, config), facts


def membership(codes: Float[Tensor, "view rows dim"], config: MLCConfig) -> Float[Tensor, "rows rows"]:
    """Gamma: the average over views of the doubly stochastic matrix made from each view's codes, of all ranks' rows.

    Rows sum to 1; columns are the clusters.
    """
    eta = batch_eta(config.eta, codes.shape[1], reference_rows=config.eta_batch)
    views = [
        doubly_stochastic(code_kernel(view, config.kernel), eta=eta, solver=config.solver, iterations=config.iterations)
        for view in codes
    ]
    return torch.stack(views).mean(0)


def warmup_terms(z: Float[Tensor, "view batch dim"], config: MLCConfig) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """MLC's terms and facts before there are clusters: those of Z alone. Rows are this rank's."""
    average = unit_rows(z.mean(0))
    rate = coding_rate(average, eps_sq=config.eps_sq, half=config.half)
    facts = {
        "rate": rate.nats.detach(),
        "z_rank": batch_rank(average),
        "cholesky_fallbacks": rate.fallbacks,
    }
    return {"expansion": -rate.nats} | _invariance(z, config), facts


def draw_columns(num_drawn: int, num_rows: int, *, step: int, seed: int = 0) -> Int[Tensor, " drawn"] | None:
    """The clusters of which R_c is taken in this step, the same on all ranks and after a resumption; None for all."""
    if num_drawn == 0 or num_drawn >= num_rows:
        return None
    drawn = generator("mlc columns", seed, step).choice(num_rows, num_drawn, replace=False)
    return torch.from_numpy(np.sort(drawn))


def _invariance(z: Tensor, config: MLCConfig) -> dict[str, Tensor]:
    if config.invariance == 0:
        return {}
    return {"invariance": -config.invariance * view_agreement(z, kind="mean_cosine")}


def _gradient_alone(terms: dict[str, Tensor]) -> Tensor:
    """0, with the gradient of the sum of `terms`.

    The codes' map then takes the very steps of the features' map, in any engine: copying the weights when the warm-up
    ends would not reach the copies of them that engines keep.
    """
    total = torch.stack([*terms.values()]).sum()
    return total - total.detach()
