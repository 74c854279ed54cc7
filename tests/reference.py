"""The synthetic inputs of tabulated reference values: closed formulas, so that nothing has to be stored."""

import torch
from torch import Tensor


def grid(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Row and column numbers from 0, in double, ready to broadcast."""
    return torch.arange(rows, dtype=torch.float64)[:, None], torch.arange(columns, dtype=torch.float64)


def first_view(rows: int, columns: int) -> Tensor:
    i, j = grid(rows, columns)
    return torch.sin(0.3 + 1.1 * i + 0.7 * j)


def second_view(rows: int, columns: int) -> Tensor:
    i, j = grid(rows, columns)
    return torch.cos(0.2 + 0.9 * i + 0.5 * j)


def transformations(rows: int) -> Tensor:
    """Unit rows of four."""
    i, _ = grid(rows, 1)
    z = torch.cat([torch.sin(i + 1), torch.cos(i + 2), torch.sin(i + 3), torch.cos(i + 4)], dim=1)
    return torch.nn.functional.normalize(z)


def hypernetwork_weight(dim: int, num_params: int) -> Tensor:
    r, c = grid(dim * dim, num_params)
    return 0.5 * torch.sin(1 + r + 2 * c).view(dim, dim, num_params)


def rate_view(rows: int = 12, columns: int = 5, *, phase: float = 0.0) -> Tensor:
    """Unit rows whose coding rates are tabulated; the second view of the same samples has a `phase` of 0.1."""
    i, a = (x + 1 for x in grid(rows, columns))
    z = torch.sin(0.7 * i * a + phase) + 0.25 * torch.cos(1.1 * i + 0.3 * a**2)
    return torch.nn.functional.normalize(z)


def rate_codes(rows: int = 12, columns: int = 5) -> Tensor:
    """Unit rows whose doubly stochastic membership is tabulated."""
    i, a = (x + 1 for x in grid(rows, columns))
    return torch.nn.functional.normalize(torch.sin(0.45 * i * a + 0.2 * a))
