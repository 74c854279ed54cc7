"""The ranking loss of mined pairs against its table and its plain definition; which negatives a pair is given."""

from itertools import product

import pytest
import torch
from torch import Tensor

from viewfold.keyed import uniforms
from viewfold.ssl.losses import choose_negatives, of_other_parents, triplet_ranking_loss


def rows(*numbers: tuple[float, ...]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_tabulated_triplets() -> None:
    loss = triplet_ranking_loss(rows((1, 0)), rows((4, 3)), rows((0, 5), (3, 4), (-2, 0)), margin=0.5)
    torch.testing.assert_close(loss, rows((0.0, 0.3, 0.0)))


def test_every_triplet_is_its_definition() -> None:
    x, positive, others = gaussian(5, 3), gaussian(5, 3, seed=1), gaussian(7, 3, seed=2)
    loss = triplet_ranking_loss(x, positive, others, margin=0.7)

    def distance(a: Tensor, b: Tensor) -> float:
        return 1 - float(a @ b) / float(a.norm() * b.norm())

    for i, j in product(range(5), range(7)):
        expected = max(0.0, distance(x[i], positive[i]) - distance(x[i], others[j]) + 0.7)
        assert loss[i, j].item() == pytest.approx(expected, abs=1e-12)
    assert loss.min() == 0 < loss.max()


def test_gradients_are_those_of_the_loss() -> None:
    inputs = [gaussian(3, 4, seed=seed).requires_grad_() for seed in range(3)]
    assert torch.autograd.gradcheck(lambda *three: triplet_ranking_loss(*three, margin=2.0), inputs)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.02)])
def test_short_numbers_are_widened(dtype: torch.dtype, tolerance: float) -> None:
    inputs = [gaussian(4, 8, seed=seed) for seed in range(3)]
    loss = triplet_ranking_loss(*(x.to(dtype) for x in inputs))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), triplet_ranking_loss(*inputs), rtol=0, atol=tolerance)


def test_negatives_lie_in_a_parent_that_neither_image_is_in_and_are_in_one() -> None:
    parent = torch.tensor([[3, -1, 3, 5], [3, 3, 5, -1]])
    allowed = of_other_parents(parent, parent[0])
    assert allowed.int().tolist() == [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0], [1, 0, 1, 0]]


@pytest.mark.parametrize(("negatives", "hard"), [(4, 0), (4, 2), (4, 4), (3, 1), (50, 25)])
def test_negatives_are_those_of_a_plain_search(negatives: int, hard: int) -> None:
    loss = torch.relu(gaussian(6, 12))
    allowed = gaussian(6, 12, seed=1) > -0.5
    allowed[5] = False
    draws = torch.from_numpy(uniforms(range(6), 12))
    chosen = choose_negatives(loss, allowed, draws, negatives=negatives, hard=hard)
    for i in range(6):
        violators = [j for j in range(12) if allowed[i, j] and loss[i, j] > 0]
        worst = sorted(violators, key=lambda j: -loss[i, j])[:negatives] if hard else []
        rest = [j for j in violators if j not in worst]
        drawn = [sorted(pool, key=lambda j: -draws[i, j]) for pool in (worst, rest)]
        assert chosen[i].nonzero().flatten().tolist() == sorted(drawn[0][:hard] + drawn[1][: negatives - hard])
    assert not chosen[5].any()


def test_all_that_come_too_near_are_drawn_equally_often() -> None:
    loss, allowed = torch.ones(4000, 8), torch.ones(4000, 8, dtype=torch.bool)
    loss[:, 0] = 0
    allowed[:, 1] = False
    draws = torch.from_numpy(uniforms(range(4000), 8))
    share = choose_negatives(loss, allowed, draws, negatives=2, hard=0).double().mean(0)
    expected = torch.tensor([0, 0] + [1 / 3] * 6, dtype=torch.float64)
    torch.testing.assert_close(share, expected, rtol=0, atol=5 * (2 / 9 / 4000) ** 0.5)
