"""Whether each class of features fills a subspace of its own: ranks, nearest subspace, overlap of subspaces.

Subspaces pass through the origin: nothing is centred. Singular values are exact, in float64.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from viewfold.errors import InvalidInput
from viewfold.ssl.evaluate.accuracy import accuracy_measures
from viewfold.ssl.evaluate.chance import most_frequent
from viewfold.ssl.evaluate.measure import Measure, Split


@dataclass(frozen=True)
class Subspaces:
    """The leading directions of each class."""

    label: Int[Tensor, " class"]
    """The classes, ascending."""
    basis: Float[Tensor, "class dim rank"]
    """float64, orthonormal columns; columns of zeros where a class has fewer rows than `rank`."""


def numerical_rank(z: Float[Tensor, "row dim"], *, share: float = 0.95) -> int:
    """The fewest singular directions that hold more than `share` of the energy, the sum of squared singular values."""
    energy = torch.linalg.svdvals(z.double()).square()
    return int((energy.cumsum(0) <= share * energy.sum()).sum()) + 1 if energy.sum() > 0 else 0


def class_ranks(z: Float[Tensor, "row dim"], label: ArrayLike | Tensor, *, share: float = 0.95) -> dict[int, int]:
    """`numerical_rank` of the rows of each class of `label` `[row]`, negative ones left out."""
    of_row = torch.as_tensor(label)
    return {int(one): numerical_rank(z[of_row == one], share=share) for one in torch.unique(of_row) if one >= 0}


def class_subspaces(z: Float[Tensor, "row dim"], label: ArrayLike | Tensor, *, rank: int) -> Subspaces:
    """The first `rank` right singular vectors of the rows of each class of `label` `[row]`, negative ones left out."""
    of_row = torch.as_tensor(label)
    classes = torch.unique(of_row[of_row >= 0])
    basis = torch.zeros(len(classes), z.shape[1], rank, dtype=torch.float64)
    for place, one in enumerate(classes):
        leading = torch.linalg.svd(z[of_row == one].double(), full_matrices=False).Vh[:rank].T
        basis[place, :, : leading.shape[1]] = leading
    return Subspaces(classes, basis)


def subspace_residuals(z: Float[Tensor, "row dim"], subspaces: Subspaces) -> Float[Tensor, "row class"]:
    """Length of what each subspace leaves of each row, |(I - U U') z|."""
    rows = z.double()
    columns = [rows - rows @ basis @ basis.T for basis in subspaces.basis]
    return torch.stack([left.norm(dim=1) for left in columns], dim=1)


def nearest_subspace(known: Split, asked: Split, *, rank: int, seed: int = 0) -> list[Measure]:
    """Share of `asked` whose class has the subspace of least residual, fitted on `known`; plain and class-balanced.

    Subspaces have `rank` dimensions; of equal residuals the lower class counts. Rows without a label are left out.
    Chance is the most frequent class of `known`.

    Raises:
        InvalidInput: no labels, or a rank outside 1..dim - 1, where every residual would be 0.
    """
    shelf, queries = known.labelled(), asked.labelled()
    dim = shelf.features.shape[1]
    if not 1 <= rank < dim:
        raise InvalidInput(f"nearest subspace: the rank must lie in 1..{dim - 1}, below the width, got {rank}")
    subspaces = class_subspaces(shelf.features, shelf.label, rank=rank)
    predicted = subspaces.label[subspace_residuals(queries.features, subspaces).argmin(dim=1)]
    blind = torch.isin(queries.label, most_frequent(shelf.label, 1))
    detail = {"rank": rank, "num_known": len(shelf.label)}
    hits = predicted == queries.label
    return accuracy_measures("subspace/top1", queries, hits, blind_hits=blind, seed=seed, detail=detail)


def subspace_affinity(subspaces: Subspaces) -> Float[Tensor, "class class"]:
    """|U_a' U_b|^2 over the smaller of the two dimensions: 0 for orthogonal subspaces, 1 where one holds the other."""
    overlap = torch.einsum("adr,bds->abrs", subspaces.basis, subspaces.basis).square().sum(dim=(2, 3))
    dims = subspaces.basis.square().sum(dim=(1, 2))
    return overlap / torch.minimum(dims[:, None], dims[None, :])
