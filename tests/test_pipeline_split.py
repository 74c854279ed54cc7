"""Query and pool: no group on both sides, the share met within a group, and adding samples moves few."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from viewfold.errors import InvalidInput
from viewfold.pipeline.order.split import Split, split_groups

Numbers = NDArray[np.int64]


def split(group: Numbers, share: float, *, seed: int = 0, keys: Numbers | None = None) -> Split:
    names = [f"patient {number}" for number in range(1000)]
    return split_groups(
        group, names=names, key=lambda row: str(row if keys is None else keys[row]), share=share, seed=seed
    )


@given(st.lists(st.integers(-1, 9), min_size=12, max_size=200), st.floats(0.01, 0.99), st.integers(0, 9))
@settings(deadline=None)
def test_every_group_is_whole_on_one_side_and_the_share_is_met_within_one(
    groups: list[int], share: float, seed: int
) -> None:
    group = np.array([0, 1, *groups])
    query, pool = split(group, share, seed=seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([query, pool])), np.arange(len(group)))
    assert len(query)
    assert len(pool)
    assert not set(group[query][group[query] >= 0]) & set(group[pool])
    largest = max(1, np.bincount(group[group >= 0]).max())
    assert abs(len(query) - share * len(group)) <= largest


@given(st.integers(0, 99), st.integers(0, 40))
@settings(deadline=None)
def test_samples_that_are_added_move_others_one_way_only_and_few(seed: int, num_added: int) -> None:
    rng = np.random.default_rng(seed)
    group = rng.integers(-1, 100, 400)
    added = rng.integers(-1, 150, num_added)
    # The new ones come first, so that every row has another number than before, but its old name.
    keys = np.concatenate([np.arange(10_000, 10_000 + num_added), np.arange(400)])
    before = split(group, 0.3, seed=seed)
    after = split(np.concatenate([added, group]), 0.3, seed=seed, keys=keys)
    old, new = set(before.query.tolist()), {row - num_added for row in after.query.tolist() if row >= num_added}
    assert old <= new or new <= old
    assert len(old ^ new) <= num_added + 2 * np.bincount(group + 1)[1:].max()


def test_the_seed_draws_another_split() -> None:
    group = np.repeat(np.arange(50), 2)
    assert {len(split(group, 0.2, seed=seed).query) for seed in range(5)} == {20}
    assert len({tuple(split(group, 0.2, seed=seed).query.tolist()) for seed in range(5)}) == 5


def test_what_cannot_be_parted_is_refused() -> None:
    with pytest.raises(InvalidInput, match="all 3 samples are of one group"):
        split(np.zeros(3, np.int64), 0.5)
    with pytest.raises(InvalidInput, match="must lie between 0 and 1, got 1"):
        split(np.arange(3), 1)
