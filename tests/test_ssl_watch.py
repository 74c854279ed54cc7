import math

import pytest
import torch
from ranks import run_ranks

from viewfold.errors import TrainingStopped
from viewfold.ssl.dist import rank
from viewfold.ssl.methods import Outcome
from viewfold.ssl.watch import CollapseWatch, WatchConfig, effective_rank, require_finite, spread


def outcome(features: torch.Tensor) -> Outcome:
    return Outcome(terms={"a": torch.tensor(1.0)}, features={"invariant": features})


def test_orthogonal_rows_of_equal_length_have_full_effective_rank() -> None:
    assert effective_rank(3 * torch.eye(6)).item() == pytest.approx(6, rel=1e-5)


def test_two_unequal_directions_have_a_closed_form() -> None:
    rank_of = effective_rank(torch.diag(torch.tensor([3.0, 1.0, 0.0])))
    assert rank_of.item() == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)), rel=1e-5)


def test_one_direction_has_rank_one() -> None:
    assert effective_rank(torch.outer(torch.arange(1.0, 5), torch.rand(7))).item() == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.zeros(3, 4)).item() == pytest.approx(1)


def test_spread_is_zero_on_a_ray_and_one_on_the_sphere() -> None:
    torch.manual_seed(0)
    assert spread(torch.outer(torch.arange(1.0, 5), torch.rand(7))).item() == pytest.approx(0, abs=1e-6)
    assert spread(torch.randn(4000, 16)).item() == pytest.approx(1, abs=0.01)


def test_warns_when_a_part_stays_collapsed() -> None:
    watch = CollapseWatch(WatchConfig(patience=2))
    healthy, collapsed = outcome(torch.randn(8, 4)), outcome(torch.ones(8, 4))
    rows = [watch.look(step, o) for step, o in enumerate([collapsed, healthy, collapsed, collapsed])]
    assert ["warning" in row for row in rows] == [False, False, False, True]
    assert rows[3]["warning"] == "features have collapsed: spread of invariant 0.0000, below 0.02"


def test_stops_when_configured() -> None:
    watch = CollapseWatch(WatchConfig(patience=1, stop=True))
    with pytest.raises(TrainingStopped, match="step 7: features have collapsed"):
        watch.look(7, outcome(torch.ones(8, 4)))


def test_large_batches_are_thinned_evenly() -> None:
    rows = torch.eye(4).repeat_interleave(1000, dim=0)
    seen = CollapseWatch(WatchConfig()).look(0, outcome(rows))
    assert seen["effective_rank/invariant"] == pytest.approx(4, rel=1e-3)


def look_on_rank(features: torch.Tensor) -> dict[str, float | str]:
    return CollapseWatch(WatchConfig()).look(0, outcome(features.chunk(2)[rank()]))


def test_ranks_look_at_the_global_batch() -> None:
    features = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    expected = CollapseWatch(WatchConfig()).look(0, outcome(features))
    assert run_ranks(look_on_rank, features) == [pytest.approx(expected)] * 2


def refusal_on_rank() -> str:
    terms = {"good": torch.tensor(1.0), "bad": torch.tensor(1.0 if rank() == 0 else math.nan)}
    try:
        require_finite(5, Outcome(terms=terms, features={}))
    except TrainingStopped as error:
        return str(error)
    return ""


def test_all_ranks_stop_when_one_is_not_finite() -> None:
    first, second = run_ranks(refusal_on_rank)
    assert first == second
    assert first.startswith("step 5: bad not finite on 1 of 2 ranks")
