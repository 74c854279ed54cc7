"""On a CPU the views of the coming batch are made while a step is taken, one batch ahead and no further."""

import threading
from collections.abc import Iterator

import pytest
import torch
from trainees import batches, make_views, sie

from viewfold.errors import InvalidInput
from viewfold.ssl.ahead import with_views
from viewfold.ssl.checkpoint import Progress
from viewfold.ssl.engine import LocalEngine, OptimConfig
from viewfold.ssl.loop import train
from viewfold.values import Batch, Views

CPU = torch.device("cpu")


def test_views_of_the_next_batch_are_made_while_the_caller_is_busy_and_no_further_ones() -> None:
    begun = [threading.Event() for _ in range(4)]
    made: list[Batch] = []

    def noted(batch: Batch) -> Views:
        begun[len(made)].set()
        made.append(batch)
        return make_views(batch)

    source = with_views(iter(batches(steps=4)), noted, CPU)
    first, views = next(source)
    assert begun[1].wait(20), "nobody makes the next views"
    assert not begun[2].wait(0.2), "two batches ahead"
    assert made[0] is first
    assert torch.equal(views().images, make_views(first).images)
    rest = list(source)
    assert [batch for batch, _ in rest] == made[1:]
    assert all(torch.equal(views().images, make_views(batch).images) for batch, views in rest)


def test_no_batch_is_read_that_no_step_is_taken_on() -> None:
    read: list[int] = []

    def endless() -> Iterator[Batch]:
        for step, batch in enumerate(batches(steps=20)):
            read.append(step)
            yield batch

    engine = LocalEngine(sie(), OptimConfig(), num_steps=3)
    train(engine, endless(), make_views, progress=Progress(), steps=3)
    assert read == [0, 1, 2]


def test_a_batch_that_cannot_be_had_stops_only_the_step_that_needs_it_and_the_thread_ends() -> None:
    def broken() -> Iterator[Batch]:
        yield from batches(steps=2)
        raise InvalidInput("a.tar: gone")

    progress = Progress()
    with pytest.raises(InvalidInput, match=r"a\.tar: gone"):
        train(LocalEngine(sie(), OptimConfig(), num_steps=5), broken(), make_views, progress=progress, steps=5)
    assert progress.step == 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("views")]


def test_another_device_is_given_its_views_when_it_takes_the_batch() -> None:
    made: list[Batch] = []

    def noted(batch: Batch) -> Views:
        made.append(batch)
        return make_views(batch)

    batch, views = next(with_views(iter(batches(steps=2)), noted, torch.device("meta")))
    assert not made
    views()
    assert made == [batch]
