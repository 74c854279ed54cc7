"""The doubly stochastic membership against tabulated values, its constraints and finite differences."""

import math
from collections.abc import Sequence

import pytest
import torch
from reference import rate_codes, rate_view
from torch import Tensor
from torch.nn import functional as F

from viewfold.errors import InvalidInput
from viewfold.ssl.losses import coding_rate, partition_rate
from viewfold.ssl.sinkhorn import batch_eta, code_kernel, doubly_stochastic, membership_facts

Z, C = rate_view(), rate_codes()
KERNEL = code_kernel(C, "abs")
CONVERGED = {
    0.175: (0.497879818495, 0.008309933198, 0.006115804921, 5.647412467738, 5.183712645579, 12.398475084751),
    0.1: (0.521888058166, 0.000410545305, 0.000268440698, 6.114110738403, 5.920053139386, 8.831237588853),
}
"""By eta: entries (1, 1), (1, 2) and (4, 8), trace, squared norm, entropy."""
POTENTIAL = {0.175: -0.561022198948, 0.1: -0.532515108103}


def tabulated(values: float | Sequence[float]) -> object:
    """The tables have twelve decimals."""
    return pytest.approx(values, rel=0, abs=1e-12)


@pytest.mark.parametrize("eta", CONVERGED)
@pytest.mark.parametrize("solver", ["implicit", "averaged"])
def test_converged_memberships_have_the_tabulated_values(eta: float, solver: str) -> None:
    gamma = doubly_stochastic(KERNEL, eta=eta, solver=solver, iterations=60)
    facts = membership_facts(gamma)
    found = [gamma[0, 0], gamma[0, 1], gamma[3, 7], gamma.trace(), facts["gamma_norm_sq"], facts["gamma_entropy"]]
    assert torch.stack(found).tolist() == tabulated(CONVERGED[eta])
    assert (eta * gamma[0, 0].log() - KERNEL[0, 0]).item() / 2 == tabulated(POTENTIAL[eta])
    assert facts["gamma_diagonal"].item() == tabulated(CONVERGED[eta][3] / 12)
    assert facts["gamma_column_error"] < 1e-13
    torch.testing.assert_close(gamma, gamma.T)


def test_signed_kernels_have_the_tabulated_values() -> None:
    gamma = doubly_stochastic(code_kernel(C, "inner"), eta=0.175, solver="implicit")
    facts = membership_facts(gamma)
    found = [gamma[0, 0], gamma.trace(), facts["gamma_norm_sq"], facts["gamma_entropy"]]
    expected = [0.954316309589, 11.078568779295, 10.273455017876, 4.559491374910]
    assert torch.stack(found).tolist() == tabulated(expected)


def test_half_steps_have_the_tabulated_values() -> None:
    gamma = doubly_stochastic(KERNEL, eta=0.175, solver="alternating", iterations=5)
    found = [gamma[0, 0], gamma[0, 1], gamma[1, 0], gamma.sum(0).min(), gamma.sum(0).max(), gamma.trace()]
    expected = [0.497560874181, 0.008338843186, 0.008273008593, 0.998646046333, 1.003505722784, 5.647162329531]
    assert torch.stack(found).tolist() == tabulated(expected)
    assert membership_facts(gamma)["gamma_norm_sq"].item() == tabulated(5.183047865687)


@pytest.mark.parametrize(
    ("solver", "eps_sq", "compression", "reduction"),
    [
        ("implicit", 0.5, 3.693478519530, 1.230965275770),
        ("implicit", 0.1, 7.518041771350, 2.817260586138),
        ("alternating", 0.5, 3.693357991211, 1.231085804090),
        ("alternating", 0.1, 7.516309778286, 2.818992579201),
    ],
)
def test_rates_by_memberships_have_the_tabulated_values(
    solver: str, eps_sq: float, compression: float, reduction: float
) -> None:
    gamma = doubly_stochastic(KERNEL, eta=0.175, solver=solver)
    within = partition_rate(Z, gamma, eps_sq=eps_sq, half=False).nats
    assert within.item() == tabulated(compression)
    assert (coding_rate(Z, eps_sq=eps_sq, half=False).nats - within).item() == tabulated(reduction)
    halves = partition_rate(Z, gamma, eps_sq=eps_sq).nats - coding_rate(Z, eps_sq=eps_sq).nats
    assert halves.item() == tabulated(-reduction / 2)


def test_the_loss_with_a_price_on_self_assignment_has_the_tabulated_value() -> None:
    gamma = doubly_stochastic(KERNEL, eta=0.175, solver="alternating")
    price = 0.05 / 2 * membership_facts(gamma)["gamma_norm_sq"]
    loss = partition_rate(Z, gamma, eps_sq=0.1).nats - coding_rate(Z, eps_sq=0.1).nats + price
    assert (price.item(), loss.item()) == (
        tabulated(0.129576196642),
        tabulated(-1.279920092958),
    )


@pytest.mark.parametrize("eta", [0.3, 0.175, 0.1, 0.02])
@pytest.mark.parametrize("solver", ["averaged", "alternating"])
def test_rows_sum_to_one_and_columns_ever_more_nearly(solver: str, eta: float) -> None:
    random = torch.Generator().manual_seed(3)
    kernel = code_kernel(F.normalize(torch.randn(64, 8, dtype=torch.float64, generator=random)), "abs")
    gammas = [doubly_stochastic(kernel, eta=eta, solver=solver, iterations=steps) for steps in (1, 3, 5, 9, 15)]
    for gamma in gammas:
        assert (gamma >= 0).all()
        torch.testing.assert_close(gamma.sum(1), torch.ones(64).double(), rtol=0, atol=1e-14)
    errors = [membership_facts(gamma)["gamma_column_error"].item() for gamma in gammas]
    assert errors == sorted(errors, reverse=True)
    single = doubly_stochastic(kernel.float(), eta=eta, solver=solver)
    torch.testing.assert_close(single.double(), gammas[2], rtol=1e-4, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(doubly_stochastic(kernel.float(), eta=eta, solver=solver), single)


def test_codes_in_bfloat16_are_compared_in_float32() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kernel = code_kernel(C.float(), "inner")
    assert kernel.dtype == torch.float32
    torch.testing.assert_close(kernel.double(), C @ C.T, rtol=0, atol=1e-6)


def test_converged_in_float32_is_converged() -> None:
    gamma = doubly_stochastic(KERNEL.float(), eta=0.1, solver="implicit")
    assert gamma[0, 0].item() == pytest.approx(CONVERGED[0.1][0], rel=1e-5)
    assert membership_facts(gamma)["gamma_column_error"] < 1e-5


def test_the_implicit_gradient_is_that_of_finite_differences() -> None:
    def some_entries(codes: Tensor) -> Tensor:
        gamma = doubly_stochastic(code_kernel(F.normalize(codes), "abs"), eta=0.175, solver="implicit")
        return gamma[:4]

    assert torch.autograd.gradcheck(some_entries, C.clone().requires_grad_())


def reduction_gradient(solver: str) -> Tensor:
    codes = C.clone().requires_grad_()
    gamma = doubly_stochastic(code_kernel(codes, "abs"), eta=0.175, solver=solver)
    return torch.autograd.grad(-partition_rate(Z, gamma, eps_sq=0.5).nats, codes)[0].flatten()


@pytest.mark.parametrize("solver", ["averaged", "alternating"])
def test_a_held_potential_turns_the_gradient_by_a_known_little(solver: str) -> None:
    cosine = F.cosine_similarity(reduction_gradient(solver), reduction_gradient("implicit"), dim=0)
    assert cosine.item() == pytest.approx({"alternating": 0.9963, "averaged": 0.9961}[solver], abs=5e-5)


def test_eta_follows_the_batch() -> None:
    assert batch_eta(0.175, 512, reference_rows=1024) == pytest.approx(0.199, abs=5e-4)
    assert batch_eta(0.175, 2048, reference_rows=1024) == pytest.approx(0.156, abs=5e-4)
    assert batch_eta(0.1, 1024, reference_rows=1024) == pytest.approx(0.1)
    # What a row leaves to itself among rows that are all equally far away.
    for rows in (64, 1024):
        eta = batch_eta(0.175, rows, reference_rows=256)
        kernel = torch.eye(rows).double()
        own = membership_facts(doubly_stochastic(kernel, eta=eta))["gamma_diagonal"].item()
        assert own == pytest.approx(1 / (1 + 256 * math.exp(-1 / 0.175)), rel=0.02)


def test_what_cannot_be_is_refused_in_one_line() -> None:
    with pytest.raises(InvalidInput, match="4 half-steps would end on the columns"):
        doubly_stochastic(KERNEL, eta=0.175, solver="alternating", iterations=4)
    with pytest.raises(InvalidInput, match=r"eta 0.175 for 1024 rows .* batch of 2: use more than 3 rows"):
        batch_eta(0.175, 2, reference_rows=1024)
