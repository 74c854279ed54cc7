"""Is the run still learning something? Collapse, effective rank, numbers that are not numbers."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from viewfold.config import Config
from viewfold.errors import TrainingStopped
from viewfold.ssl.dist import gather_values, sum_over_ranks, world_size
from viewfold.ssl.methods import Outcome

MAX_ROWS = 512
"""Rows that a look takes from a batch: singular values of more would cost a large batch more than the step."""


@dataclass(frozen=True, kw_only=True)
class WatchConfig(Config):
    """When features count as collapsed, and what is done about it."""

    min_spread: float = 0.02
    """A part whose spread lies below this has collapsed; see `spread`: 0 is a point, 1 the whole sphere."""
    patience: int = 5
    """Looks in a row at a collapsed part before it is reported."""
    stop: bool = False
    """Stop the run then; otherwise the metrics carry a warning."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_spread < 1:
            raise ValueError(f"min_spread must lie in 0..1, got {self.min_spread}")
        if self.patience < 1:
            raise ValueError(f"patience must be at least 1, got {self.patience}")


class CollapseWatch:
    """Looks at the outcome of a step now and then; it remembers only how long each part has been collapsed."""

    def __init__(self, config: WatchConfig) -> None:
        self._config = config
        self._looks_collapsed: dict[str, int] = {}

    def look(self, step: int, outcome: Outcome) -> dict[str, float | str]:
        """Spread and effective rank of each part, over at most `MAX_ROWS` rows, taken evenly from those of all ranks.

        The row has a `warning` when a part has collapsed for long.

        A call of all ranks.

        Raises:
            TrainingStopped: a part has collapsed, for long, and the configuration says to stop.
        """
        row: dict[str, float | str] = {}
        for part, local_rows in outcome.features.items():
            if local_rows.shape[1] == 0:
                continue
            features = _at_most(MAX_ROWS, gather_values(local_rows).float())
            row[f"spread/{part}"] = width = spread(features).item()
            row[f"effective_rank/{part}"] = effective_rank(features).item()
            collapsed = width < self._config.min_spread
            self._looks_collapsed[part] = self._looks_collapsed.get(part, 0) + 1 if collapsed else 0
        gone = [part for part, looks in self._looks_collapsed.items() if looks >= self._config.patience]
        if gone:
            row["warning"] = self._warning(gone, row)
            if self._config.stop:
                raise TrainingStopped(
                    f"step {step}: {row['warning']}; raise the weight of the variance term or lower lr"
                )
        return row

    def _warning(self, parts: list[str], row: dict[str, float | str]) -> str:
        spreads = ", ".join(f"{part} {row[f'spread/{part}']:.4f}" for part in parts)
        return f"features have collapsed: spread of {spreads}, below {self._config.min_spread}"


def effective_rank(features: Float[Tensor, "row dim"]) -> Float[Tensor, ""]:
    """RankMe: exp of the entropy of the normalised singular values, arXiv:2210.02885, equation 2; not centred.

    Between 1 (all rows on one line; also when all are zero) and min(row, dim), so it compares only at equal rows.
    """
    sizes = torch.linalg.svdvals(features.float())
    entropy: Tensor = torch.special.entr(sizes / sizes.sum().clamp(min=1e-12)).sum()
    return entropy.exp()


def spread(features: Float[Tensor, "row dim"]) -> Float[Tensor, ""]:
    """How far the directions of the rows differ: 0 when all rows point the same way, 1 when they fill the sphere.

    The mean over dimensions of the deviation of the L2-normalised rows, times sqrt(dim).
    """
    return F.normalize(features, dim=1).std(dim=0).mean() * math.sqrt(features.shape[1])


@torch.no_grad()
def require_finite(step: int, outcome: Outcome) -> None:
    """Raise on every rank when a term of any rank is not a finite number. A call of all ranks.

    Raises:
        TrainingStopped: naming the step and the terms.
    """
    bad = sum_over_ranks((~torch.stack(list(outcome.terms.values())).isfinite()).float())
    names = [name for name, count in zip(outcome.terms, bad.tolist(), strict=True) if count]
    if names:
        ranks = f" on {int(bad.max())} of {world_size()} ranks" if world_size() > 1 else ""
        raise TrainingStopped(f"step {step}: {', '.join(names)} not finite{ranks}; lower optim.lr or clip gradients")


def _at_most(num_rows: int, features: Tensor) -> Tensor:
    return features[:: math.ceil(len(features) / num_rows)]
