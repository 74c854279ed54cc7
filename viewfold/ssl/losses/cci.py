"""Class-conditioned contrastive invariance: samples of a class attract each other, whatever their domain.

The form is that of HCVP (arXiv:2401.09716), whose authors name the loss again in arXiv:2405.12217; the second paper has
no public code, and equality with it is not claimed.
i: anchor, one of this rank's rows. j: any row of any rank. P(i): its positives. A(i): all that it is compared with.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from viewfold.ssl.dist import gather_rows, gather_values, mean_of_valid, rank
from viewfold.ssl.precision import in_float32

Form = Literal["in", "out"]
Positives = Literal["class", "cross_domain"]
SameDomain = Literal["neutral", "negative"]


@dataclass(frozen=True)
class Pairs:
    """Who is compared with whom: this rank's rows (anchors) against the rows of all ranks."""

    positive: Bool[Tensor, "batch all_rows"]
    """P(i)."""
    compared: Bool[Tensor, "batch all_rows"]
    """A(i), which contains P(i)."""

    @property
    def valid(self) -> Bool[Tensor, " batch"]:
        """Anchors that have a positive; the others would only repel, and are left out of the loss."""
        return self.positive.any(1)


def class_pairs(
    label: Int[Tensor, " batch"],
    domain: Int[Tensor, " batch"],
    group: Int[Tensor, " batch"],
    *,
    positives: Positives,
    same_domain_same_class: SameDomain = "neutral",
) -> Pairs:
    """Pairs of this rank's rows and all ranks' rows; -1 is "unknown" in all three.

    Positives share the anchor's class and, for `cross_domain`, come from another domain, both known. The anchor's class
    within its own domain is then not compared at all (`neutral`), or pushed away (`negative`), which works against what
    is learned; where a domain is unknown it is never compared. With `class` the choice has no effect. Pairs of one
    known group (patient, object) are never compared, so that the group is not what is learned. Unlabelled rows take no
    part.
    """
    rows = torch.stack([label, domain, group], dim=1)
    every = gather_values(rows)
    (label, domain, group), (label_j, domain_j, group_j) = rows[:, :, None].unbind(1), every.unbind(1)
    itself = torch.arange(len(every), device=rows.device) == _row_numbers(rows)[:, None]
    compared = ~itself & (label >= 0) & (label_j >= 0) & ((group != group_j) | (group < 0))
    same_class = label == label_j
    if positives == "class":
        return Pairs(positive=compared & same_class, compared=compared)
    known = (domain >= 0) & (domain_j >= 0)
    positive = compared & same_class & known & (domain != domain_j)
    pushed = ~same_class | (known & (domain == domain_j)) if same_domain_same_class == "negative" else ~same_class
    return Pairs(positive=positive, compared=compared & (pushed | positive))


@in_float32
def cci_loss(
    h: Float[Tensor, "batch dim"], pairs: Pairs, *, form: Form = "in", tau: float = 1.0, eps: float | None = None
) -> Float[Tensor, ""]:
    """Mean over all ranks' anchors that have positives, 0 when there is none; features are L2-normalised here.

    `in`: -log of the share of exp(cosine / tau) that falls on positives; below tau 0.5 the nearest positive takes
    nearly all of the pull. `out`: SupCon's form (arXiv:2004.11362), every positive pulls by itself. `eps` (`in` only)
    is added to both sums, as HCVP does with 1e-7; without it the loss is 0 or more.
    `h` holds this rank's rows; the mean over ranks is the value of the global batch.
    """
    return mean_of_valid(_anchor_losses(h, pairs, form=form, tau=tau, eps=eps), pairs.valid)


def _anchor_losses(h: Tensor, pairs: Pairs, *, form: Form, tau: float, eps: float | None) -> Float[Tensor, " batch"]:
    """One loss per anchor; what it holds for an anchor without positives is finite and means nothing."""
    z = F.normalize(h, dim=1)
    logit_ij = z @ gather_rows(z).T / tau
    if form == "out":
        mean_positive_i = torch.where(pairs.positive, logit_ij, 0).sum(1) / pairs.positive.sum(1).clamp(min=1)
        return _log_sum_exp(logit_ij, pairs.compared, None) - mean_positive_i
    return _log_sum_exp(logit_ij, pairs.compared, eps) - _log_sum_exp(logit_ij, pairs.positive, eps)


def _log_sum_exp(logit_ij: Tensor, chosen: Tensor, eps: float | None) -> Tensor:
    """log(sum of exp over the chosen columns, plus `eps`), safe for any tau."""
    # The lowest finite number and not -inf: a row in which nothing is chosen would turn its gradient into nan.
    total_i = logit_ij.masked_fill(~chosen, torch.finfo(logit_ij.dtype).min).logsumexp(1)
    return total_i if eps is None else torch.logaddexp(total_i, total_i.new_tensor(math.log(eps)))


def _row_numbers(rows: Tensor) -> Tensor:
    """Which of all ranks' rows this rank's rows are."""
    return rank() * len(rows) + torch.arange(len(rows), device=rows.device)
