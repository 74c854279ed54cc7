"""Coding rates against tabulated values, closed forms, the straightforward computation and finite differences."""

import math

import pytest
import torch
from ranks import run_ranks
from reference import rate_codes, rate_view
from torch import Tensor
from torch.nn import functional as F

from viewfold.ssl.dist import gather_rows, rank, sum_over_ranks, world_size
from viewfold.ssl.losses import coding_rate, partition_rate
from viewfold.ssl.sinkhorn import code_kernel, doubly_stochastic

Z, C = rate_view(), rate_codes()
LABELS = F.one_hot(torch.arange(12) % 3).double()


def tabulated(value: float) -> object:
    """The tables have twelve decimals."""
    return pytest.approx(value, rel=0, abs=1e-12)


def rate(z: Tensor, eps_sq: float = 0.5) -> float:
    return coding_rate(z, eps_sq=eps_sq, half=False).nats.item()


def rate_within(z: Tensor, membership: Tensor, eps_sq: float = 0.5) -> float:
    return partition_rate(z, membership, eps_sq=eps_sq, half=False).nats.item()


def written_out(z: Tensor, membership: Tensor, eps_sq: float, *, half: bool = True) -> Tensor:
    """R_c with every matrix made in full, for autograd."""
    column_sum = membership.sum(0)
    covariance = (z.T * (membership / column_sum).T[:, None]) @ z
    log_det = torch.logdet(torch.eye(z.shape[1]).to(z) + z.shape[1] / eps_sq * covariance)
    return (0.5 if half else 1.0) * (column_sum * log_det).sum() / len(z)


def random_case(rows: int, dim: int, clusters: int) -> tuple[Tensor, Tensor]:
    """Unit rows, and a membership whose rows sum to 1."""
    random = torch.Generator().manual_seed(rows)
    z = F.normalize(torch.randn(rows, dim, dtype=torch.float64, generator=random))
    return z, torch.randn(rows, clusters, dtype=torch.float64, generator=random).mul(2).softmax(1)


def test_rates_have_the_tabulated_values() -> None:
    assert rate(Z, 0.5) == tabulated(4.924443795301)
    assert rate(Z, 0.1) == tabulated(10.335302357487)
    assert coding_rate(Z, eps_sq=0.5).nats.item() == tabulated(2.462221897650)
    assert coding_rate(Z, eps_sq=0.1).nats.item() == tabulated(5.167651178744)
    assert rate_within(Z, LABELS, 0.5) == tabulated(3.959566890382)
    assert rate_within(Z, LABELS, 0.1) == tabulated(7.794424466711)
    assert rate(Z, 0.5) - rate_within(Z, LABELS, 0.5) == tabulated(0.964876904918)
    assert rate(Z, 0.1) - rate_within(Z, LABELS, 0.1) == tabulated(2.540877890776)
    assert partition_rate(Z, LABELS, eps_sq=0.5).nats.item() == tabulated(3.959566890382 / 2)
    assert rate(rate_view(4, 7)) == tabulated(5.829632134414)  # fewer rows than dimensions


def test_rates_of_two_views_have_the_tabulated_values() -> None:
    other = rate_view(phase=0.1)
    assert rate((Z + other) / 2) == tabulated(4.943760617794)
    halves = [coding_rate(view, eps_sq=0.2).nats for view in (Z, other)]
    assert torch.stack(halves).mean().item() == tabulated(3.970242632360)
    assert (12 + 5) / (12 * 5) * coding_rate(Z, eps_sq=0.5).nats.item() == tabulated(0.697629537668)
    kernels = (code_kernel(codes, "abs") for codes in (C, other))
    memberships = [doubly_stochastic(k, eta=0.175, solver="alternating", iterations=5) for k in kernels]
    mean, membership = F.normalize(Z + other), torch.stack(memberships).mean(0)
    assert rate(mean) == tabulated(4.961182982030)
    assert rate_within(mean, membership) == tabulated(3.657462147624)
    assert rate(mean) - rate_within(mean, membership) == tabulated(1.303720834406)


def test_orthogonal_clusters_and_extreme_memberships_have_closed_forms() -> None:
    corners = torch.cat([torch.eye(4), -torch.eye(4)]).double()
    clusters = F.one_hot(torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])).double()
    assert rate(corners) == pytest.approx(4 * math.log(3), abs=1e-12)
    assert rate_within(corners, clusters) == pytest.approx(2 * math.log(5), abs=1e-12)
    assert rate_within(corners, clusters @ clusters.T / 4) == pytest.approx(2 * math.log(5), abs=1e-12)
    assert rate(corners) - rate_within(corners, clusters) == tabulated(1.175573329804)
    assert rate_within(Z, torch.eye(12).double()) == tabulated(2.397895272798)
    assert rate_within(Z, torch.ones(12, 12).double() / 12) == pytest.approx(rate(Z), abs=1e-12)
    empty = F.pad(LABELS, (1, 2)).requires_grad_()  # labels that the batch does not have
    value = partition_rate(Z, empty, eps_sq=0.5, half=False).nats
    assert value.item() == tabulated(3.959566890382)
    assert torch.autograd.grad(value, empty)[0].isfinite().all()
    assert rate_within(Z, LABELS[:, :0]) == 0  # a rank that got none of the clusters


@pytest.mark.parametrize(("rows", "dim"), [(12, 5), (6, 9), (40, 13)])
def test_rates_are_bounded_and_know_neither_order_nor_sign_nor_axes(rows: int, dim: int) -> None:
    z, membership = random_case(rows, dim, rows)
    expansion, compression, alpha = rate(z), rate_within(z, membership), dim / 0.5
    by_rows = torch.logdet(torch.eye(rows) + alpha / rows * z @ z.T).item()  # Sylvester
    assert expansion == pytest.approx(by_rows, abs=1e-10)
    assert math.log(1 + alpha) <= compression <= expansion
    assert expansion <= min(dim * math.log(1 + 2), rows * math.log(1 + alpha / rows)) + 1e-10
    random = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, generator=random))[0]
    order = torch.randperm(rows, generator=random)
    sign = torch.where(torch.rand(rows, 1, generator=random) < 0.5, -1.0, 1.0)
    for same, same_membership in (
        (z @ turn, membership),
        (sign * z, membership),
        (z[order], membership[order][:, order]),
    ):
        assert rate(same) == pytest.approx(expansion, abs=1e-10)
        assert rate_within(same, same_membership) == pytest.approx(compression, abs=1e-10)


@pytest.mark.parametrize(
    ("rows", "dim", "clusters"),
    [(12, 5, 12), (9, 13, 3), pytest.param(40, 160, 90, id="columns in chunks"), (150_000, 8, 2)],
)
def test_values_and_gradients_are_those_of_matrices_written_out(rows: int, dim: int, clusters: int) -> None:
    z, membership = (x.requires_grad_() for x in random_case(rows, dim, clusters))
    ours, oracle = partition_rate(z, membership, eps_sq=0.3).nats, written_out(z, membership, 0.3)
    torch.testing.assert_close(ours, oracle, rtol=1e-10, atol=1e-10)
    grads, expected = (torch.autograd.grad(value, [z, membership]) for value in (ours, oracle))
    for grad, wanted in zip(grads, expected, strict=True):
        assert (grad - wanted).norm() <= 1e-10 * wanted.norm()


def test_gradients_are_those_of_finite_differences() -> None:
    z, membership, total = Z.clone().requires_grad_(), *(x.clone().requires_grad_() for x in (LABELS + 0.1, Z.sum()))
    assert torch.autograd.gradcheck(lambda z: coding_rate(z, eps_sq=0.1).nats, z)
    assert torch.autograd.gradcheck(lambda *x: partition_rate(*x, eps_sq=0.1).nats, (z, membership, total))
    with torch.no_grad():
        assert not partition_rate(z, membership, eps_sq=0.1).nats.requires_grad


def test_sampled_columns_give_the_rate_of_all_on_average() -> None:
    membership = doubly_stochastic(code_kernel(C, "abs"), eta=0.175, solver="implicit")
    alone = [partition_rate(Z, column, column.sum(), eps_sq=0.5).nats for column in membership.T[:, :, None]]
    torch.testing.assert_close(torch.stack(alone).mean(), partition_rate(Z, membership, eps_sq=0.5).nats)


def test_float32_keeps_five_digits_and_bfloat16_changes_nothing_but_the_rows() -> None:
    z, membership = random_case(64, 32, 64)
    for eps_sq in (0.5, 0.1):
        exact = torch.stack([coding_rate(z, eps_sq=eps_sq).nats, partition_rate(z, membership, eps_sq=eps_sq).nats])
        single = z.float(), membership.float()
        values = [coding_rate(single[0], eps_sq=eps_sq), partition_rate(*single, eps_sq=eps_sq)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            again = [coding_rate(single[0], eps_sq=eps_sq), partition_rate(*single, eps_sq=eps_sq)]
            of_half = coding_rate(z.bfloat16(), eps_sq=eps_sq)
        assert values == again
        torch.testing.assert_close(torch.stack([value.nats for value in values]).double(), exact, rtol=1e-5, atol=0)
        assert not any(value.fallbacks for value in values)
        assert of_half.nats == coding_rate(z.bfloat16().float(), eps_sq=eps_sq).nats


def test_what_float32_cannot_factor_is_done_in_float64_and_counted() -> None:
    """Rows on a line: of two matrices the one that a rounding makes indefinite, and a harmless one."""
    line, eps_sq = F.normalize(torch.randn(1, 16, generator=torch.Generator().manual_seed(0))), 1e-9
    z = torch.cat([line.expand(20, 16), torch.zeros(20, 16)]).requires_grad_()
    membership = F.one_hot(torch.arange(40) // 20).float().requires_grad_()
    together, apart = coding_rate(z, eps_sq=eps_sq), partition_rate(z, membership, eps_sq=eps_sq)
    assert (together.fallbacks.item(), apart.fallbacks.item()) == (1, 1)
    energy = z.detach().double().square().sum()
    assert together.nats.item() == pytest.approx(math.log1p(energy * 16 / 40 / eps_sq) / 2, rel=1e-6)
    assert apart.nats.item() == pytest.approx(math.log1p(energy / 20 * 16 / eps_sq) / 4, rel=1e-6)
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(together.nats + apart.nats, [z, membership]))
    assert not partition_rate(z.double(), membership.double(), eps_sq=eps_sq).fallbacks
    lost = z.detach().clone().fill_(math.nan)
    assert coding_rate(lost, eps_sq=0.5).nats.isnan()
    assert partition_rate(lost, membership, eps_sq=0.5).nats.isnan()


def test_rows_of_one_rank_over_the_rows_of_all_would_double_the_error() -> None:
    assert rate(Z[:6], eps_sq=2 * 0.5) == tabulated(3.092588423307)


def own_part(x: Tensor) -> Tensor:
    return x.chunk(world_size())[rank()].clone().requires_grad_()


def on_a_rank(z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """R, R_c by this rank's share of the columns and R_c by a sample of that share, and the gradients of each."""
    z, codes = own_part(z), own_part(codes)
    all_z, all_codes = gather_rows(z), gather_rows(codes)
    membership = doubly_stochastic(code_kernel(all_codes, "abs"), eta=0.175)
    columns = membership.chunk(world_size(), dim=1)[rank()]
    sampled = columns[:, ::2]
    share = torch.tensor(len(all_z) / world_size())
    values = [
        coding_rate(z, eps_sq=0.1).nats,
        partition_rate(all_z, columns, share, eps_sq=0.1).nats,
        partition_rate(all_z, sampled, sum_over_ranks(sampled.sum()) / world_size(), eps_sq=0.1).nats,
    ]
    grads = [torch.autograd.grad(value, [z, codes], retain_graph=True, allow_unused=True) for value in values]
    of_z = torch.stack([grad for grad, _ in grads], dim=1)
    of_codes = torch.stack([grad for _, grad in grads[1:]], dim=1)
    return torch.stack(values).detach(), of_z / world_size(), of_codes / world_size()


def test_two_ranks_equal_one() -> None:
    values, of_z, of_codes = on_a_rank(Z, C)
    assert values[0].item() == tabulated(5.167651178744)
    first, second = run_ranks(on_a_rank, Z, C)
    torch.testing.assert_close(first[0][0], values[0])  # the same on every rank
    torch.testing.assert_close((first[0] + second[0]) / 2, values)
    torch.testing.assert_close(torch.cat([first[1], second[1]]), of_z)
    torch.testing.assert_close(torch.cat([first[2], second[2]]), of_codes)
