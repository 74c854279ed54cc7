"""Dealing the samples that are due to a class over its next visits, so that no group comes twice in one of them.

One class's visits make a table: each visit takes fixed numbers of samples from the domains. A visit is filled by a
matching of groups to those places, groups with the most samples left first, by augmenting paths.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


def deal(windows: Numbers, rows: Numbers, domains: Numbers, groups: Numbers, draw: np.random.Generator) -> Numbers:
    """`[visit, place]`: the index of the sample that each place gets; every sample is dealt once.

    `windows` `[visit, place]` are the domains asked for; `rows`, `domains` and `groups` `[sample]` describe as many
    samples, in every domain as many as are asked for; group -1 is none. A visit's places are in random order.

    Where every visit asks for the same domains and no group has more samples than there are visits, no group comes
    twice in a visit (visits are then the colours of a bipartite graph's edges: Koenig 1916). Elsewhere that is avoided
    as far as a visit by itself can. Of successive draws from `Cells` no row comes twice in a visit, unless that asks a
    cell for more rows than it has.
    """
    groups = np.where(groups >= 0, groups, -1 - rows)  # a sample without one is a group of its own
    table = _Table(domains, groups, draw.permutation(len(rows)))
    dealt = np.empty_like(windows)
    for visit in draw.permutation(len(windows)):
        places = draw.permutation(windows.shape[1])
        taken = table.take(windows[visit].tolist())
        dealt[visit, places] = [taken[domain].pop() for domain in windows[visit].tolist()]
    _part_rows(dealt, rows, domains, groups)
    return dealt


def _part_rows(dealt: Numbers, rows: Numbers, domains: Numbers, groups: Numbers) -> None:
    """Where a visit has a row twice, exchange one with another visit's sample of the domain that neither has.

    A row twice is worse than a group twice, and groups that go first can leave copies of a row for the last visits.
    Of the samples that would do, that with the fewest groups met on both sides is taken.
    """
    for visit, place in _again(rows[dealt]):
        one = dealt[visit, place]
        fits = (domains[dealt] == domains[one]) & ~(rows[dealt] == rows[one]).any(axis=1, keepdims=True)
        fits &= ~np.isin(rows[dealt], rows[dealt[visit]])
        if fits.any():
            met_here = np.isin(groups[dealt], groups[dealt[visit]])
            met = met_here + (groups[dealt] == groups[one]).sum(axis=1, keepdims=True)
            other = np.unravel_index(np.argmin(np.where(fits, met, dealt.size)), dealt.shape)
            dealt[visit, place], dealt[other] = dealt[other], one


def _again(rows: Numbers) -> list[list[int]]:
    """Visit and place of every row that its visit has before."""
    again = np.ones(rows.shape, dtype=np.bool_)
    for visit, of_visit in enumerate(rows):
        again[visit, np.unique(of_visit, return_index=True)[1]] = False
    pairs: list[list[int]] = np.argwhere(again).tolist()
    return pairs


class _Table:
    """What is left to deal: samples by domain and group."""

    def __init__(self, domains: Numbers, groups: Numbers, order: Numbers) -> None:
        self._left: dict[int, dict[int, deque[int]]] = {group: {} for group in groups[order].tolist()}
        for index, (domain, group) in enumerate(zip(domains.tolist(), groups.tolist(), strict=True)):
            self._left[group].setdefault(domain, deque()).append(index)
        self._count = {group: sum(map(len, left.values())) for group, left in self._left.items()}

    def take(self, window: Sequence[int]) -> dict[int, list[int]]:
        """The samples of one visit by domain, as many of each as the window asks for."""
        free = {domain: window.count(domain) for domain in window}
        holders: dict[int, list[int]] = {domain: [] for domain in free}
        order = sorted(self._count, key=self._count.__getitem__, reverse=True)
        num_free = len(window)
        for group in order:
            num_free -= self._place(group, free, holders, set())
            if not num_free:
                break
        taken = {domain: [self._pop(group, domain) for group in held] for domain, held in holders.items()}
        for domain, number in free.items():
            taken[domain] += [self._pop(self._largest(domain), domain) for _ in range(number)]
        return taken

    def _place(self, group: int, free: dict[int, int], holders: dict[int, list[int]], seen: set[int]) -> bool:
        """Give the group a place in one of its domains, moving others to theirs if that makes room."""
        for domain in self._left[group]:
            if domain not in free or domain in seen:
                continue
            seen.add(domain)
            if free[domain]:
                free[domain] -= 1
                holders[domain].append(group)
                return True
            for index, other in enumerate(holders[domain]):
                if self._place(other, free, holders, seen):
                    holders[domain][index] = group
                    return True
        return False

    def _pop(self, group: int, domain: int) -> int:
        """The group's earliest sample in the domain."""
        left = self._left[group][domain]
        index = left.popleft()
        if not left:
            del self._left[group][domain]
        self._count[group] -= 1
        if not self._count[group]:
            del self._count[group]
        return index

    def _largest(self, domain: int) -> int:
        """The group with the most samples in the domain, where all that have any are in the visit already."""
        return max(self._count, key=lambda group: len(self._left[group].get(domain, ())))
