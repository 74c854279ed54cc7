import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from reference import rate_view
from subspace_trainees import TASK, built
from torch import Tensor
from torch.nn import functional as F

from viewfold.config import parse
from viewfold.errors import InvalidInput
from viewfold.ssl.losses import partition_rate
from viewfold.ssl.methods import MCR2Config
from viewfold.ssl.methods.mcr2 import mcr2_terms, sample_rate

Z, LABEL = rate_view(), torch.arange(12) % 3
PAPER = MCR2Config(half=False)


def facts_of(z: Tensor, label: Tensor, config: MCR2Config) -> dict[str, float]:
    return {name: value.item() for name, value in mcr2_terms(z, label, config)[1].items()}


@pytest.mark.parametrize(
    ("eps_sq", "rate", "clusters", "reduction"),
    [(0.5, 4.924443795301, 3.959566890382, 0.964876904918), (0.1, 10.335302357487, 7.794424466711, 2.540877890776)],
)
def test_labels_give_the_tabulated_rates(eps_sq: float, rate: float, clusters: float, reduction: float) -> None:
    terms, _ = mcr2_terms(Z[None], LABEL, replace(PAPER, eps_sq=eps_sq))
    assert terms["expansion"].item() == pytest.approx(-rate, abs=1e-11)
    assert terms["compression"].item() == pytest.approx(clusters, abs=1e-11)
    facts = facts_of(Z[None], LABEL, MCR2Config(eps_sq=eps_sq))
    assert facts["rate_reduction"] == pytest.approx(reduction / 2, abs=1e-11)
    lower = facts_of(Z[None].float(), LABEL, MCR2Config(eps_sq=eps_sq))
    assert lower["rate_reduction"] == pytest.approx(reduction / 2, rel=1e-5)


def test_orthogonal_classes_have_the_closed_form() -> None:
    z = torch.cat([torch.eye(4), -torch.eye(4)]).double()
    facts = facts_of(z[None], torch.tensor([0, 0, 1, 1, 0, 0, 1, 1]), PAPER)
    assert facts["rate"] == pytest.approx(4 * math.log(3), abs=1e-12)
    assert facts["rate_clusters"] == pytest.approx(2 * math.log(5), abs=1e-12)


def test_samples_without_a_label_are_left_out() -> None:
    more, label = torch.cat([Z, rate_view(5, 5, phase=0.7)]), torch.cat([LABEL, torch.full((5,), -1)])
    views, fewer = more.expand(2, -1, -1), Z.expand(2, -1, -1)
    torch.testing.assert_close(mcr2_terms(views, label, PAPER)[0], mcr2_terms(fewer, LABEL, PAPER)[0])


def test_a_batch_without_labels_teaches_nothing() -> None:
    z = Z[None].clone().requires_grad_()
    terms, _ = mcr2_terms(z, torch.full((12,), -1), MCR2Config())
    loss = torch.stack([*terms.values()]).sum()
    torch.autograd.backward(loss)
    assert loss.item() == 0
    assert z.grad is not None
    assert z.grad.abs().max() == 0


@pytest.mark.parametrize("num_views", [2, 7])
def test_views_of_a_sample_are_a_class_of_their_own(num_views: int) -> None:
    """The small form against the general one, with more views than dimensions as well."""
    z = torch.stack([rate_view(phase=0.4 * view) for view in range(num_views)])
    membership = F.one_hot(torch.arange(12).repeat(num_views)).double()
    expected = partition_rate(z.flatten(0, 1), membership, eps_sq=0.5, half=False).nats
    torch.testing.assert_close(sample_rate(z, eps_sq=0.5, half=False), expected, rtol=1e-11, atol=0)
    facts = facts_of(z, torch.full((12,), -1), replace(PAPER, partition="samples"))
    assert facts["rate_clusters"] == pytest.approx(expected.item(), rel=1e-11)


@pytest.mark.parametrize("partition", ["labels", "samples"])
def test_gammas_change_the_loss_and_not_what_is_logged(partition: Any) -> None:
    z = torch.stack([Z, rate_view(phase=0.1)])
    plain = MCR2Config(partition=partition)
    weighted = replace(plain, gamma1=20.0, gamma2=0.05)
    assert facts_of(z, LABEL, weighted) == facts_of(z, LABEL, plain)
    rows = z.flatten(0, 1)
    expected = -0.05 * 0.5 * torch.logdet(torch.eye(5) + 20 * 5 / (24 * 0.5) * rows.T @ rows)
    torch.testing.assert_close(mcr2_terms(z, LABEL, weighted)[0]["expansion"], expected)


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        ({}, {"num_labels": 1}, "two classes or more, the data has 1; label it, or choose partition: samples"),
        ({"partition": "samples"}, {"num_views": 1}, "method mcr2 compares two views or more, got 1"),
    ],
)
def test_what_cannot_be_trained_is_refused(settings: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        built("mcr2", replace(TASK, **changes), **settings)


def test_a_weight_that_ends_the_loss_is_refused() -> None:
    with pytest.raises(InvalidInput, match="gamma1 must be above 0"):
        parse(MCR2Config, {"gamma1": 0})
