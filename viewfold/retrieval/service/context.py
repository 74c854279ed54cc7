"""What a route knows of the request that it answers: the pair taken for it, the settings, where the time went."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from starlette.requests import Request

from viewfold.retrieval.service.backend import Backend, NotReady, ServedPair
from viewfold.retrieval.service.choosing import Choosing
from viewfold.retrieval.service.config import ServiceConfig
from viewfold.retrieval.service.recent import RecentQueries


def pair_of(request: Request) -> ServedPair:
    """The pair that was taken when the request came in; a route never asks the backend for another.

    Raises:
        NotReady: none was loaded then.
    """
    pair: ServedPair | None = request.state.pair
    if pair is None:
        raise NotReady("no index is loaded yet; ask /readyz until it is")
    return pair


def backend_of(request: Request) -> Backend:
    """The backend, for what concerns more than this request."""
    backend: Backend = request.app.state.backend
    return backend


def settings_of(request: Request) -> ServiceConfig:
    """The settings of the service."""
    settings: ServiceConfig = request.app.state.settings
    return settings


def recent_of(request: Request) -> RecentQueries:
    """What was asked lately, for drift."""
    recent: RecentQueries = request.app.state.recent
    return recent


def choosing_of(request: Request, data: Mapping[str, Any]) -> Choosing:
    """The settings of a body over those of the service; raises what `choosing.chooser` says."""
    choose: Callable[[Mapping[str, Any]], Choosing] = request.app.state.choose
    return choose(data)


@contextmanager
def timed(request: Request, stage: str) -> Iterator[None]:
    """Counts the time of the block for `stage` in the answer's Server-Timing."""
    start = time.perf_counter()
    try:
        yield
    finally:
        spent = request.state.timings
        spent[stage] = spent.get(stage, 0.0) + 1000 * (time.perf_counter() - start)
