"""What names a pair in every process that answers from it, and what each of them keeps open."""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from viewfold.retrieval.service.backend import pair_id

T = TypeVar("T")

KEPT = 2
"""Pairs that a process holds: the one that answers, and the one before it, for the requests that began with that."""


@dataclass(frozen=True)
class Ticket:
    """One pair, for every process that answers from it. It goes with each request through all of them."""

    source: str
    version: str | None
    """Of the registered model; None for another source."""
    bundle: str
    """Folder, which all machines must reach by this path; those of the encoders too."""
    bundle_id: str
    encoder: str
    encoder_id: str
    base: str | None
    """Folder of the encoder from before adaptation, where there is one."""
    base_id: str | None
    part: str
    """Of the encoders' features."""

    @property
    def id(self) -> str:
        """The id of the pair."""
        return pair_id(self.encoder_id, self.bundle_id)

    @property
    def files(self) -> tuple[str | None, ...]:
        """The pair and where it lies: a copy elsewhere is opened and checked as any other pair."""
        return self.id, self.bundle, self.encoder, self.base


class Held(Generic[T]):
    """What was opened for the last `KEPT` pairs that were asked for; others are opened when they are asked for."""

    def __init__(self, opener: Callable[[Ticket], T]) -> None:
        """`opener` is called in the thread that asks, for one pair at a time."""
        self._opener = opener
        self._held: OrderedDict[tuple[str | None, ...], T] = OrderedDict()
        self._opening = threading.Lock()

    def of(self, ticket: Ticket) -> T:
        """What belongs to the pair of `ticket`. Raises what the opener raises."""
        found = self._held.get(ticket.files)  # no lock: requests of the pair that answers go on while another is opened
        if found is not None:
            with contextlib.suppress(KeyError):  # another thread has just put a newer pair in its place
                self._held.move_to_end(ticket.files)
            return found
        with self._opening:
            if ticket.files not in self._held:
                opened = self._opener(ticket)
                while len(self._held) >= KEPT:
                    self._held.popitem(last=False)
                self._held[ticket.files] = opened
            return self._held[ticket.files]
