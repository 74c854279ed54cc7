"""Groups of workers that come and go: how many there is room for, and which group of a run this is. Free of Ray."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Elastic:
    """A number of workers that follows the room that a cluster has, in steps of the sizes that a run can use."""

    sizes: tuple[int, ...]
    """Ascending. Each must do: batches must stay equal, so take those that divide the global batch."""
    look_every_s: float = 60.0
    """How often a healthy group is asked whether it could be larger; growing costs the steps since the checkpoint."""

    def __post_init__(self) -> None:
        if not self.sizes or self.sizes[0] < 1 or list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError(f"sizes must be ascending numbers of workers, at least one, got {self.sizes}")

    def fitting(self, nodes: Iterable[Mapping[str, float]], needs: Mapping[str, float]) -> int:
        """The largest size for which `nodes` with these resources have room, `needs` for each worker; 0 if none."""
        # Quotients are rounded: of 2 CPUs in shares of 0.4, 4.999 fit.
        room = sum(min(int(node.get(kind, 0) / need + 1e-6) for kind, need in needs.items() if need) for node in nodes)
        return max((size for size in self.sizes if size <= room), default=0)


def count_attempt(folder: Path) -> int:
    """How many groups of workers have begun on the run in `folder` before this one: 0, 1, ... For one rank to call.

    The count lies in `folder`, so it goes on when the run is taken up again by another call.
    """
    path = folder / "attempts"
    attempt = int(path.read_text(encoding="utf-8")) if path.is_file() else 0
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        file.write(f"{attempt + 1}\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    return attempt
