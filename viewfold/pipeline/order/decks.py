"""Which classes come in which batch: every class once a deck, none twice in a batch, decks end to end.

Decks are shuffled anew each time. Where batches do not divide a deck, one batch holds the end of a deck and the
beginning of the next; after `decks_per_round` decks a deck ends with a batch. Such a round is made on its own and costs
the same wherever it lies, and the number of times that a class came before is the number of decks before.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from viewfold.keyed import generator

Numbers = NDArray[np.int64]


class Slots(NamedTuple):
    """The classes of one batch."""

    classes: Numbers
    visits: Numbers
    """How often each of them came before."""


@dataclass(frozen=True)
class Decks:
    """An endless sequence of classes `0..num_classes-1`, cut into batches of `per_batch`, at most `num_classes`.

    A visit has a phase: neighbours in a batch have phases that follow each other modulo `num_phases`, and in any
    `cycle` of its visits, counted from the first, a class has every phase equally often.
    """

    identity: str
    seed: int
    num_classes: int
    per_batch: int
    num_phases: int

    @property
    def decks_per_round(self) -> int:
        """Decks after which a deck ends where a batch does."""
        return self.per_batch // gcd(self.num_classes, self.per_batch)

    @property
    def cycle(self) -> int:
        """Visits of a class after which it had every phase equally often."""
        return self.decks_per_round * self.num_phases

    def slots(self, step: int) -> Slots:
        """Classes and visits of the batch of `step`, `per_batch` of each."""
        number, step = divmod(step, self.num_classes // gcd(self.num_classes, self.per_batch))
        slots = np.arange(step * self.per_batch, (step + 1) * self.per_batch)
        return Slots(_round(self, number).ravel()[slots], number * self.decks_per_round + slots // self.num_classes)

    def find(self, number: int, visit: int) -> tuple[int, int]:
        """The step at which class `number` is visited for that time, and its place among the classes of the batch."""
        of, deck = divmod(visit, self.decks_per_round)
        place = int(np.flatnonzero(_round(self, of)[deck] == number)[0])
        return divmod(visit * self.num_classes + place, self.per_batch)

    def phases(self, number: int, visits: Numbers) -> Numbers:
        """0..num_phases-1 for each of these visits of class `number`."""
        if self.num_phases == 1:
            return np.zeros_like(visits)
        of, deck = np.divmod(visits, self.decks_per_round)
        suits = [_suit(self, int(cycle))[number] for cycle in of // self.num_phases]
        phases: Numbers = (np.array(suits, dtype=np.int64) + deck * self.num_classes + of) % self.num_phases
        return phases


@lru_cache(maxsize=4)
def _round(decks: Decks, number: int) -> Numbers:
    """`[decks_per_round, num_classes]`: the classes in their order."""
    suit = _suit(decks, number // decks.num_phases)
    draw = generator("classes", decks.identity, decks.seed, number)
    result = np.empty((decks.decks_per_round, decks.num_classes), dtype=np.int64)
    for index in range(decks.decks_per_round):
        opened = -index * decks.num_classes % decks.per_batch  # so many end the batch that the deck before has begun
        begun = decks.per_batch - opened if opened else 0
        taken = np.zeros(decks.num_classes, dtype=np.bool_)
        taken[result[index - 1, decks.num_classes - begun :]] = True
        for colour in range(min(decks.num_phases, decks.num_classes)):
            members = draw.permutation(np.flatnonzero(suit == colour))
            # As many as are taken stand at the end of their deck, so at most those places are not left for the others.
            first = members[~taken[members]][: len(range(colour, opened, decks.num_phases))]
            rest = draw.permutation(members[~np.isin(members, first)])
            result[index, colour :: decks.num_phases] = np.concatenate([first, rest])
    return result


@lru_cache(maxsize=32)
def _suit(decks: Decks, cycle: int) -> Numbers:
    """For each class the places in a deck that it can have, by their remainder; dealt anew when a cycle is complete."""
    order = generator("suits", decks.identity, decks.seed, cycle).permutation(decks.num_classes)
    suit = np.empty(decks.num_classes, dtype=np.int64)
    suit[order] = np.arange(decks.num_classes) % decks.num_phases
    return suit
