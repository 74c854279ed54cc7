"""What a search hands to whoever chooses, and how it is asked again when that leaves too few."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Candidates:
    """Rows that came out of a search, best first, before anything is chosen from them."""

    rows: NDArray[np.int64]
    """`[query, candidate]`; -1 where there were no more."""
    scores: NDArray[np.float64]
    """Cosine, rounded to 1e-6; -inf where `rows` is -1."""
    floor: NDArray[np.float64]
    """`[query]`: a row that the search could have given and did not scores no more than this, so that candidates above
    it are certain; -inf where it gave all it can."""
    complete: NDArray[np.bool_]
    """`[query]`: whether every allowed row is among the candidates."""
    dry: NDArray[np.bool_]
    """`[query]`: whether the index has no more to give, however many are asked for."""

    @classmethod
    def none(cls, num_queries: int) -> "Candidates":
        """No rows at all, and none left out."""
        rows, yes = np.full((num_queries, 1), -1), np.ones(num_queries, dtype=bool)
        return cls(rows, np.full((num_queries, 1), -np.inf), np.full(num_queries, -np.inf), yes, yes)


@dataclass(frozen=True, eq=False)
class Fetch:
    """One round of a search that goes on until enough candidates are left."""

    numbers: NDArray[np.int64]
    """The queries that it is for."""
    fetch: int
    exhaustive: bool
    again: list["Fetch"]

    def retry(self, found: Candidates, short: NDArray[np.bool_]) -> None:
        """Ask once more for those of this round that came out `short`, unless they have seen every row."""
        short = short & ~found.complete
        for numbers, exhaustive in ((self.numbers[short & found.dry], True), (self.numbers[short & ~found.dry], False)):
            if numbers.size:
                fetch = self.fetch if exhaustive else 2 * self.fetch
                self.again.append(Fetch(numbers, fetch, exhaustive or self.exhaustive, []))
