"""The order of training: every row once an epoch, batches that tile it, and nothing that depends on who asks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from viewfold.errors import InvalidInput
from viewfold.pipeline.plan import WINDOW_BLOCKS, Plan

sizes = st.integers(1, 3000)
blocks = st.integers(1, 40)
seeds = st.integers(0, 2**32)


@given(sizes, blocks, seeds, st.integers(0, 5))
@settings(deadline=None)
def test_an_epoch_holds_every_row_exactly_once(num_samples: int, block: int, seed: int, epoch: int) -> None:
    order = Plan("data", num_samples, seed, block).order(epoch)
    np.testing.assert_array_equal(np.sort(order), np.arange(num_samples))


@given(sizes, blocks, seeds, st.integers(1, 700))
@settings(max_examples=40, deadline=None)
def test_carried_batches_are_the_epochs_one_after_the_other(n: int, block: int, seed: int, global_batch: int) -> None:
    plan = Plan("data", n, seed, block)
    steps = -(-2 * n // global_batch)
    rows, epochs = map(np.concatenate, zip(*(plan.batch(step, global_batch) for step in range(steps)), strict=True))
    np.testing.assert_array_equal(rows[: 2 * n], np.concatenate([plan.order(0), plan.order(1)]))
    np.testing.assert_array_equal(epochs[: 2 * n], np.repeat([0, 1], n))
    assert len(rows) == steps * global_batch


@given(st.integers(20, 3000), blocks, seeds, st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_dropped_tails_start_every_epoch_afresh(n: int, block: int, seed: int, global_batch: int) -> None:
    plan = Plan("data", n, seed, block, tail="drop")
    steps = n // global_batch
    for step in (0, steps - 1, steps, 2 * steps - 1):
        rows, epochs = plan.batch(step, global_batch)
        epoch, within = divmod(step, steps)
        np.testing.assert_array_equal(rows, plan.order(epoch)[within * global_batch :][:global_batch])
        assert set(epochs.tolist()) == {epoch}


@given(st.integers(2, 3000), blocks, st.data())
@settings(max_examples=40, deadline=None)
def test_a_step_is_the_same_whoever_asks_and_whatever_was_asked_before(n: int, block: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, 50))
    plan = Plan("data", n, 0, block)
    for before in data.draw(st.lists(st.integers(0, 50), max_size=3)):
        plan.batch(before, 16)
    again = Plan("data", n, 0, block).batch(step, 16)
    np.testing.assert_array_equal(plan.batch(step, 16), again)


def test_data_seed_and_epoch_each_change_the_order() -> None:
    orders = [Plan(*who).order(epoch) for who in (("a", 99, 0), ("b", 99, 0), ("a", 99, 1)) for epoch in (0, 1)]
    assert len({order.tobytes() for order in orders}) == 6


def test_rows_of_a_window_come_from_few_blocks() -> None:
    block = 8
    order = Plan("data", 10_000, 0, block).order(0)
    window = order[: block * WINDOW_BLOCKS]
    assert len(set(window // block)) <= WINDOW_BLOCKS + 1  # one more where the short last block is among them
    assert len(set(order[:block] // block)) > 4  # and within the window they are mixed


def test_a_stretch_far_inside_a_billion_rows_needs_only_its_windows() -> None:
    rows, epochs = Plan("data", 10**9, 0, block=1 << 16).batch(2_000_000, 1024)
    assert (len(set(rows.tolist())), set(epochs.tolist())) == (1024, {2})


def test_a_batch_larger_than_the_data_spans_epochs_or_is_refused() -> None:
    rows, epochs = Plan("data", 3, 0).batch(0, 8)
    assert (len(rows), epochs.tolist()) == (8, [0, 0, 0, 1, 1, 1, 2, 2])
    with pytest.raises(InvalidInput, match="3 samples do not fill one batch of 8"):
        Plan("data", 3, 0, tail="drop").batch(0, 8)
    with pytest.raises(InvalidInput, match="at least one sample"):
        Plan("data", 0, 0)
