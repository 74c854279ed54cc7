"""How many of a query's nearest neighbours are of its class: what a retrieval of examples would hand over."""

import torch
from torch.nn import functional as F

from viewfold.errors import InvalidInput
from viewfold.ssl.evaluate.means import mean_intervals
from viewfold.ssl.evaluate.measure import Measure, Split

_BLOCK = 1024  # queries compared at a time


def retrieval_precision(
    gallery: Split, queries: Split, *, k: int = 10, exclude_group: bool = False, seed: int = 0
) -> Measure:
    """`precisionK`: mean over `queries` of the share of their `k` nearest rows of `gallery` that are of their class.

    Nearest by cosine. Rows without a label neither ask nor are found; with `exclude_group` none of the query's own
    group is found. Chance is the share of the gallery that is of the query's class.

    Raises:
        InvalidInput: `k` outside 1..gallery size (less the largest group, with `exclude_group`), or no labels.
    """
    shelf, asked = gallery.labelled(), queries.labelled()
    own = int(torch.bincount(shelf.group[shelf.group >= 0]).max()) if exclude_group and (shelf.group >= 0).any() else 0
    if not 1 <= k <= len(shelf.label) - own:
        raise InvalidInput(
            f"precision: k must lie in 1..{len(shelf.label) - own}, the images that may be found, got {k}"
        )
    rows = F.normalize(shelf.features, dim=1)
    shares = []
    for first in range(0, len(asked.label), _BLOCK):
        block = slice(first, first + _BLOCK)
        similarity = F.normalize(asked.features[block], dim=1) @ rows.T
        if exclude_group:
            similarity[asked.group[block][:, None] == shelf.group[None, :]] = -torch.inf
        found = shelf.label[similarity.topk(k, dim=1).indices]
        shares.append((found == asked.label[block][:, None]).double().mean(dim=1))
    column = torch.cat(shares)[:, None].numpy()
    (interval,) = mean_intervals(column, asked.group.numpy(), seed=seed)
    num_labels = int(torch.cat([shelf.label, asked.label]).max()) + 1
    frequency = torch.bincount(shelf.label, minlength=num_labels).double() / len(shelf.label)
    return Measure(
        name=f"precision{k}",
        **interval._asdict(),
        chance=float(frequency[asked.label].mean()),
        n=len(asked.label),
        detail={"k": k, "exclude_group": exclude_group, "num_gallery": len(shelf.label)},
    )
