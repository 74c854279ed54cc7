"""Class-conditioned contrastive invariance: golden numbers, closed forms, symmetries, ranks."""

import math
from typing import Any

import pytest
import torch
from ranks import run_ranks
from reference import grid
from torch import Tensor

from viewfold.ssl.dist import rank, world_size
from viewfold.ssl.losses import Pairs, cci_loss, class_pairs
from viewfold.ssl.losses.cci import _anchor_losses

_I, _J = grid(8, 4)
H = torch.sin(1 + 3 * _I + 2 * _J) + 0.5 * torch.cos(_I * _J)
LABEL = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])
DOMAIN = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
NONE = torch.full((8,), -1)


def _loss(h: Tensor, *, positives: str = "class", domain: Tensor = DOMAIN, group: Tensor = NONE, **form: Any) -> Tensor:
    return cci_loss(h, class_pairs(LABEL, domain, group, positives=positives), **form)  # type: ignore[arg-type]


def _grad(h: Tensor, **options: Any) -> Tensor:
    own = h.clone().requires_grad_()
    return torch.autograd.grad(_loss(own, **options), own)[0]


GOLDEN = [
    ({"form": "in"}, (1.014447456889, 2.029553781396, 2.604151811531)),
    ({"form": "in", "eps": 1e-7}, (1.014447436774, 2.029553781270, 2.604151811521)),
    ({"form": "out"}, (2.326032976130, 10.765923585205, 15.084632407383)),
    ({"form": "in", "positives": "cross_domain"}, (1.139081350775, 2.029560364013, 2.604151889377)),
    ({"form": "out", "positives": "cross_domain"}, (2.031809907964, 8.468756436799, 11.802966494764)),
]
IN_MEAN = (2.113059745557, 3.128166070064, 3.702764100199)
"""`in` with the mean of the positives within the logarithm, at the same temperatures."""


@pytest.mark.parametrize("tau_number", [0, 1, 2])
@pytest.mark.parametrize(("options", "expected"), GOLDEN)
def test_grid_has_the_golden_values(options: dict[str, Any], expected: tuple[float, ...], tau_number: int) -> None:
    tau = (1.0, 0.1, 0.07)[tau_number]
    assert _loss(H, tau=tau, **options).item() == pytest.approx(expected[tau_number], abs=1e-10)
    assert _loss(H.float(), tau=tau, **options).item() == pytest.approx(expected[tau_number], rel=2e-5)


@pytest.mark.parametrize(("tau", "in_mean"), list(zip((1.0, 0.1, 0.07), IN_MEAN, strict=True)))
def test_the_mean_within_the_logarithm_lies_log_three_above_in_and_below_out(tau: float, in_mean: float) -> None:
    assert _loss(H, tau=tau).item() + math.log(3) == pytest.approx(in_mean, abs=1e-10)  # every anchor has 3 positives
    assert in_mean <= _loss(H, tau=tau, form="out").item()  # Jensen


@pytest.mark.parametrize("form", ["in", "out"])
@pytest.mark.parametrize("tau", [1.0, 0.1])
def test_pushing_the_own_domain_away_compares_every_row(form: Any, tau: float) -> None:
    """A twin by loops over Python numbers."""
    z = H / H.norm(dim=1, keepdim=True)
    losses = []
    for i in range(8):
        others = [j for j in range(8) if j != i]
        logit = {j: float(z[i] @ z[j]) / tau for j in others}
        positive = [j for j in others if LABEL[j] == LABEL[i] and DOMAIN[j] != DOMAIN[i]]
        total = math.log(sum(math.exp(logit[j]) for j in others))
        mean = sum(logit[j] for j in positive) / len(positive)
        pull = math.log(sum(math.exp(logit[j]) for j in positive)) if form == "in" else mean
        losses.append(total - pull)
    pairs = class_pairs(LABEL, DOMAIN, NONE, positives="cross_domain", same_domain_same_class="negative")
    assert cci_loss(H, pairs, form=form, tau=tau).item() == pytest.approx(sum(losses) / 8, abs=1e-10)
    assert cci_loss(H, pairs, form=form, tau=tau) > _loss(H, positives="cross_domain", form=form, tau=tau)


def test_grid_has_the_golden_value_of_each_anchor() -> None:
    pairs = class_pairs(LABEL, DOMAIN, NONE, positives="class")
    expected = (
        0.993060597876, 0.988284745832, 1.110530867384, 1.015378878164,
        0.993906208641, 1.078134640622, 1.024447903820, 0.911835812770,
    )  # fmt: skip
    assert _anchor_losses(H, pairs, form="in", tau=1.0, eps=None).tolist() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(
    ("form", "tau", "norm"),
    [
        ("in", 1.0, 0.102601075046),
        ("out", 1.0, 0.180327136315),
        ("in", 0.1, 2.634194832046),
        ("out", 0.1, 2.950130799583),
    ],
)
def test_gradient_has_the_golden_norm_and_no_radial_part(form: str, tau: float, norm: float) -> None:
    grad = _grad(H, form=form, tau=tau)
    assert grad.norm().item() == pytest.approx(norm, abs=1e-10)
    assert (H * grad).sum(1).abs().max() < 1e-12
    assert _loss(H - 1e-3 * grad, form=form, tau=tau) < _loss(H, form=form, tau=tau)


def test_gradient_has_the_golden_first_row() -> None:
    expected = (-0.006282428827, 0.013532754800, 0.010323332313, 0.003880082896)
    assert _grad(H)[0].tolist() == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize("tau", [1.0, 0.5, 0.1])
def test_square_has_closed_forms(tau: float) -> None:
    e1, e2 = torch.eye(2, dtype=torch.float64)
    label, domain, group = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]), torch.full((4,), -1)
    pairs = class_pairs(label, domain, group, positives="class")

    def loss(*rows: Tensor) -> float:
        return cci_loss(torch.stack(rows), pairs, tau=tau).item()

    class_only, collapsed, domain_only = loss(e1, e1, e2, e2), loss(e1, e1, e1, e1), loss(e1, e2, e1, e2)
    tabulated = {
        1.0: (0.551444713932, 1.551444713932, 0.861994804058),
        0.5: (0.239544766222, 2.239544766222, 0.758623675680),
        0.1: (0.000090795737, 10.000090795737, 0.693169880267),
    }
    assert (class_only, domain_only, loss(e1, e2, -e1, -e2)) == pytest.approx(tabulated[tau], abs=1e-12)
    assert collapsed == pytest.approx(1.098612288668, abs=1e-12)
    assert class_only == pytest.approx(math.log(1 + 2 * math.exp(-1 / tau)), abs=1e-12)
    assert collapsed == pytest.approx(math.log(3), abs=1e-12)
    assert domain_only == pytest.approx(math.log(2 + math.exp(1 / tau)), abs=1e-12)
    assert loss(e1, e2, -e1, -e2) == pytest.approx(math.log(2 + math.exp(-1 / tau)), abs=1e-12)
    assert class_only < collapsed < domain_only


@pytest.mark.parametrize(("form", "expected"), [("in", 0.165893217846), ("out", 1.264505506515)])
def test_simplex_of_two_classes_has_the_tabulated_bound(form: Any, expected: float) -> None:
    rows, label = torch.tensor([[1.0]] * 4 + [[-1.0]] * 4).double(), torch.tensor([0] * 4 + [1] * 4)
    pairs = class_pairs(label, NONE, NONE, positives="class")
    assert cci_loss(rows, pairs, form=form).item() == pytest.approx(expected, abs=1e-12)
    assert cci_loss(rows.abs(), pairs).item() == pytest.approx(math.log(7 / 3), abs=1e-12)
    assert math.log(7 / 3) == pytest.approx(0.847297860387, abs=1e-12)


@pytest.mark.parametrize(("classes", "each", "tau"), [(2, 4, 1.0), (3, 2, 0.5), (5, 3, 0.2)])
def test_a_simplex_attains_the_bound(classes: int, each: int, tau: float) -> None:
    centres = torch.eye(classes, dtype=torch.float64) - 1 / classes
    rows, label = centres.repeat_interleave(each, 0), torch.arange(classes).repeat_interleave(each)
    nobody = torch.full((classes * each,), -1)
    pairs = class_pairs(label, nobody, nobody, positives="class")
    others = (classes - 1) * each / (each - 1)
    bound = math.log(1 + others * math.exp(-(1 + 1 / (classes - 1)) / tau))
    assert cci_loss(rows, pairs, tau=tau).item() == pytest.approx(bound, abs=1e-12)
    assert cci_loss(rows, pairs, form="out", tau=tau).item() == pytest.approx(bound + math.log(each - 1), abs=1e-12)


@pytest.mark.parametrize("options", [options for options, _ in GOLDEN])
def test_loss_ignores_scale_rotation_order_and_names(options: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    expected = _loss(H, **options).item()
    scaled = H * (0.5 + torch.rand(8, 1, dtype=torch.float64, generator=generator))
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=generator))
    order = torch.randperm(8, generator=generator)
    assert _loss(scaled, **options).item() == pytest.approx(expected, abs=1e-12)
    assert _loss(H @ rotation, **options).item() == pytest.approx(expected, abs=1e-12)
    form = {name: value for name, value in options.items() if name != "positives"}
    renamed = class_pairs(7 - 2 * LABEL[order], DOMAIN[order], NONE, positives=options.get("positives", "class"))
    assert cci_loss(H[order], renamed, **form).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 1.014447456889),
        ({"form": "out"}, 2.326032976130),
        ({"positives": "cross_domain"}, 1.068420812869),
        ({"positives": "cross_domain", "form": "out"}, 2.161114812582),
        ({"positives": "cross_domain", "form": "out", "tau": 0.1}, 9.403080862715),
    ],
)
def test_other_domains_move_cross_domain_positives_only(options: dict[str, Any], expected: float) -> None:
    assert _loss(H, domain=torch.arange(8) % 3, **options).item() == pytest.approx(expected, abs=1e-10)


def test_pairs_by_hand() -> None:
    label, domain, group = (
        torch.tensor([0, 0, 0, 1, -1]),
        torch.tensor([0, 0, 1, 1, 0]),
        torch.tensor([5, 6, 5, -1, -1]),
    )
    pairs = class_pairs(label, domain, group, positives="class")
    assert _chosen(pairs.positive) == [[1], [0, 2], [1], [], []]
    assert _chosen(pairs.compared) == [[1, 3], [0, 2, 3], [1, 3], [0, 1, 2], []]
    assert pairs.valid.tolist() == [True, True, True, False, False]
    across = class_pairs(label, domain, group, positives="cross_domain")
    assert _chosen(across.positive) == [[], [2], [1], [], []]
    assert _chosen(across.compared) == [[3], [2, 3], [1, 3], [0, 1, 2], []]
    pushed = class_pairs(label, domain, group, positives="cross_domain", same_domain_same_class="negative")
    assert _chosen(pushed.positive) == _chosen(across.positive)
    assert _chosen(pushed.compared) == [[1, 3], [0, 2, 3], [1, 3], [0, 1, 2], []]
    unknown_domain = class_pairs(label, torch.full((5,), -1), group, positives="cross_domain")
    assert not unknown_domain.valid.any()


def _chosen(mask: Tensor) -> list[list[int]]:
    return [row.nonzero().flatten().tolist() for row in mask]


def test_anchors_without_positives_are_left_out_and_leave_finite_gradients() -> None:
    label = torch.tensor([0, 0, 1, 2, 3, 4, 5, -1])
    pairs = class_pairs(label, NONE, NONE, positives="class")
    h = H.clone().requires_grad_()
    loss = cci_loss(h, pairs, tau=0.01)
    alone = _anchor_losses(H, pairs, form="in", tau=0.01, eps=None)[:2].mean()
    torch.testing.assert_close(loss.detach(), alone)
    assert torch.autograd.grad(loss, h)[0].isfinite().all()
    nobody = Pairs(positive=torch.zeros_like(pairs.positive), compared=pairs.compared)
    assert cci_loss(h, nobody).item() == 0


def test_pairs_of_one_group_are_never_compared() -> None:
    group = torch.tensor([1, 1, 2, 2, 1, 3, 2, 4])
    moved = H.clone()
    moved[1] = -moved[1]
    pairs = class_pairs(LABEL, DOMAIN, group, positives="class")
    before, after = (_anchor_losses(h, pairs, form="in", tau=1.0, eps=None) for h in (H, moved))
    assert before[0] == after[0]
    assert before[4] == after[4]
    assert before[5] != after[5]


def test_loss_of_bfloat16_rows_is_computed_in_float32() -> None:
    h = H.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = _loss(h, tau=0.07)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, _loss(h.float(), tau=0.07))


def _loss_and_grad(h: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """A rank holds one domain, so all cross-domain positives are on other ranks."""
    own = h.chunk(world_size())[rank()].clone().requires_grad_()
    labels = (x.chunk(world_size())[rank()] for x in (LABEL, DOMAIN, NONE))
    form = {name: value for name, value in options.items() if name != "positives"}
    loss = cci_loss(own, class_pairs(*labels, positives=options.get("positives", "class")), **form)
    return loss.detach(), torch.autograd.grad(loss, own)[0] / world_size()


@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("options", [{}, {"form": "out", "positives": "cross_domain", "tau": 0.1}])
def test_ranks_give_the_loss_and_gradient_of_one(options: dict[str, Any], num_ranks: int) -> None:
    loss, grad = _loss_and_grad(H, options)
    losses, grads = zip(*run_ranks(_loss_and_grad, H, options, world_size=num_ranks), strict=True)
    torch.testing.assert_close(torch.stack(losses).mean(), loss, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.cat(grads), grad, rtol=0, atol=1e-12)


def _loss_and_grad_of_shard(h: Tensor, sizes: list[int], options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Shards of these sizes, filled to equal ones with unlabelled rows, which take no part."""
    most, first = max(sizes), sum(sizes[: rank()])
    rows = slice(first, first + sizes[rank()])
    empty = most - sizes[rank()]
    own = torch.cat([h[rows], torch.ones(empty, 4, dtype=h.dtype)]).requires_grad_()
    labels = (torch.cat([x[rows], torch.full((empty,), -1)]) for x in (LABEL, DOMAIN, NONE))
    form = {name: value for name, value in options.items() if name != "positives"}
    loss = cci_loss(own, class_pairs(*labels, positives=options.get("positives", "class")), **form)
    return loss.detach(), torch.autograd.grad(loss, own)[0][: sizes[rank()]] / world_size()


@pytest.mark.parametrize("sizes", [[5, 3], [1, 4, 0, 3]])
@pytest.mark.parametrize("options", [{}, {"form": "out", "positives": "cross_domain", "tau": 0.1}])
def test_uneven_shards_give_the_loss_and_gradient_of_one(options: dict[str, Any], sizes: list[int]) -> None:
    loss, grad = _loss_and_grad(H, options)
    found = run_ranks(_loss_and_grad_of_shard, H, sizes, options, world_size=len(sizes))
    losses, grads = zip(*found, strict=True)
    torch.testing.assert_close(torch.stack(losses).mean(), loss, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.cat(grads), grad, rtol=0, atol=1e-12)


def test_positives_of_one_domain_alone_get_no_pull_at_a_low_temperature() -> None:
    """One positive of the own domain at cosine 1, one of another at 0, four negatives at 0: pull on the second."""
    rows = torch.zeros(7, 7, dtype=torch.float64)
    rows[:2, 0] = 1
    rows[range(2, 7), range(1, 6)] = 1
    positive = torch.zeros(7, 7, dtype=torch.bool)
    positive[0, [1, 2]] = True
    pairs = Pairs(positive=positive, compared=~torch.eye(7, dtype=torch.bool))
    expected = {"in": (1.394e-1, 3.849e-2, 8.24e-9, 1.6e-12), "out": (0.3704, 0.4193, 0.49996, 0.5)}
    form: Any
    for form, pulls in expected.items():
        for tau, pull in zip((1.0, 0.5, 0.1, 0.07), pulls, strict=True):
            own = rows.clone().requires_grad_()
            (grad,) = torch.autograd.grad(cci_loss(own, pairs, form=form, tau=tau), own)
            # The other rows anchor nothing, so what is left of row 2 is tau times the pull that row 0 gives it.
            assert -grad[2, 0].item() * tau == pytest.approx(pull, rel=2e-2)


@pytest.mark.parametrize(
    ("tau", "first", "second"), [(1.0, 1.910215561176, 1.692383494856), (0.1, 15.539732143214, 12.375708212761)]
)
def test_a_domain_on_its_own_has_another_loss(tau: float, first: float, second: float) -> None:
    assert (first + second) / 2 == pytest.approx({1.0: 1.801299528016, 0.1: 13.957720177987}[tau], abs=1e-11)
    for rows, expected in ((slice(0, 4), first), (slice(4, 8), second)):
        pairs = class_pairs(LABEL[rows], DOMAIN[rows], NONE[rows], positives="class")
        assert cci_loss(H[rows], pairs, tau=tau).item() == pytest.approx(expected, abs=1e-10)
