"""Views of the coming batch: on a CPU a thread makes them beside the step, elsewhere they queue up on the device."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch

from viewfold.values import Batch, Views

Coming = tuple[Batch, Callable[[], Views]]
"""A batch with the views of it, which were made already or are put into the device's queue by the call."""


def with_views(
    batches: Iterator[Batch], make_views: Callable[[Batch], Views], device: torch.device
) -> Generator[Coming]:
    """Each of `batches` with its views, in their order.

    On a CPU one batch is read, and its views are made, while the caller is busy with the one before; close the
    iterator to be rid of the thread. What goes wrong there is raised when its batch is asked for. Views are a function
    of their batch, so they are the same bits wherever they are made.
    """
    if device.type == "cpu":
        return _made_by_a_thread(batches, make_views)
    return ((batch, partial(make_views, batch)) for batch in batches)


def _made_by_a_thread(batches: Iterator[Batch], make_views: Callable[[Batch], Views]) -> Generator[Coming]:
    def following() -> Coming | None:
        batch = next(batches, None)
        if batch is None:
            return None
        views = make_views(batch)
        return batch, lambda: views

    num_threads = torch.get_num_threads()
    with ThreadPoolExecutor(1, thread_name_prefix="views") as thread:
        thread.submit(torch.set_num_threads, 1).result()  # the step has the other cores: more would wait for each other
        torch.set_num_threads(num_threads)  # as before for threads yet to come, which take the number set last
        coming = thread.submit(following)
        while (pair := coming.result()) is not None:
            coming = thread.submit(following)
            yield pair
