"""Whether a predictor leads to the right view of an object: MRR and H@k of arXiv:2302.10283.

The embedding of an object's first view is taken to each of its views by the transformation between the two; a query is
right when the predicted embedding is nearer to its own view than to the object's others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from viewfold.errors import InvalidInput
from viewfold.ssl.equivariant import EquivariantHead
from viewfold.ssl.evaluate.chance import hit_chance, mrr_chance
from viewfold.ssl.evaluate.means import mean_intervals
from viewfold.ssl.evaluate.measure import Measure, finite
from viewfold.ssl.methods.relations import RELATIONS, Recorded

HITS = (1, 2, 5, 10)
"""The k of H@k."""
_BLOCK = 4096  # images embedded, predicted or compared at a time


@dataclass(frozen=True)
class PredictedViews:
    """Every image of a split as a query: where it lies, and where its object's first view is predicted to go."""

    embeddings: Tensor
    """float32 `[image, dim]`, not normalised."""
    predicted: Tensor
    """float32 `[image, dim]`: predicted from the first image of the same object, for itself too; not normalised."""
    objects: Tensor
    """int64 `[image]`: which images show the same object; its first view is its first row."""
    group: Tensor
    """int64 `[image]`: what the bootstrap draws, no -1 among them."""


@torch.no_grad()
def predict_views(
    head: EquivariantHead,
    features: ArrayLike | Tensor,
    latents: ArrayLike | Tensor,
    objects: ArrayLike | Tensor,
    *,
    names: Sequence[str],
    groups: ArrayLike | Tensor | None = None,
) -> PredictedViews:
    """Embed every image and predict it from the first one of its object, in evaluation mode (restored afterwards).

    `features` is `[image, part_dim]`, the part that the head embeds; `latents` `[image, latent]` with the column names
    `names`, as the data has them. The bootstrap draws `groups`; without them, or where one is -1, the object itself.

    Raises:
        InvalidInput: the head follows a transformation that is drawn, or one that `names` lack; features of another
            width than its part; embeddings or predictions that are nan or infinite.
    """
    rows, table = finite(features), torch.as_tensor(latents).to("cpu", torch.float32)
    relation = _recorded(head, width=rows.shape[1])
    object_of = np.asarray(objects, dtype=np.int64)
    _, first_row, number = np.unique(object_of, return_index=True, return_inverse=True)
    source = torch.from_numpy(first_row[number])
    z = relation.between(table[source], table, names)
    training, device = head.training, next(head.parameters()).device
    head.eval()
    embeddings = torch.cat([head.embed(part.to(device)).cpu() for part in torch.split(rows, _BLOCK)])
    predicted = [
        head.predict(embeddings[i].to(device), to.to(device)).cpu()
        for i, to in zip(torch.split(source, _BLOCK), torch.split(z, _BLOCK), strict=True)
    ]
    head.train(training)
    own = torch.from_numpy(object_of)
    group = own if groups is None else _or_object(np.asarray(groups, dtype=np.int64), number)
    return PredictedViews(finite(embeddings), finite(torch.cat(predicted)), own, group)


def view_retrieval(views: PredictedViews, *, seed: int = 0) -> list[Measure]:
    """`retrieval/mrr` and `retrieval/hit1` to `hit10`: where the true view stands among the views of its object.

    Every view is a query, the source included, and so is the gallery: the object's own views. MRR is the mean of
    1 / rank, H@k the share of ranks up to k. Chance is a random order of as many views: H_V / V, and k / V. Where views
    tie (as those of a collapsed encoder do) a query counts as the mean over their orders, and the share of such queries
    is in the detail. Objects with a single view ask nothing; others may differ in the number of their views.

    Raises:
        InvalidInput: no object has two views.
    """
    rank, ties, num_views, rows = _ranks(views)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, num_views.max() + 1))])
    detail = {
        "num_objects": len(torch.unique(views.objects[rows])),
        "views_per_object": [int(num_views.min()), int(num_views.max())],
        "tied_share": float(np.mean(ties > 0)),
    }
    scores = {"mrr": (harmonic[rank + ties] - harmonic[rank - 1]) / (ties + 1)}
    blind = {"mrr": _each(mrr_chance, num_views)}
    for k in HITS:
        scores[f"hit{k}"] = np.clip((k + 1 - rank) / (ties + 1), 0, 1)
        blind[f"hit{k}"] = _each(partial(hit_chance, k), num_views)
    intervals = mean_intervals(np.stack(list(scores.values()), axis=1), views.group[rows].numpy(), seed=seed)
    return [
        Measure(
            name=f"retrieval/{name}",
            **interval._asdict(),
            chance=float(np.mean(blind[name])),
            n=len(rows),
            detail=detail,
        )
        for name, interval in zip(scores, intervals, strict=True)
    ]


def view_ranks(
    embeddings: Float[Tensor, "object view dim"], predicted: Float[Tensor, "object view dim"], *, normalise: bool = True
) -> tuple[Int[Tensor, "object view"], Int[Tensor, "object view"]]:
    """Rank of each view by its similarity to its prediction: 1 + how many views of the object are more similar.

    The second answer is how many others are exactly as similar. Similarity is the inner product; with `normalise`, of
    unit vectors. A prediction of zero ties with every view.
    """
    if normalise:
        embeddings = embeddings / (embeddings.norm(dim=-1, keepdim=True) + 1e-8)
        predicted = F.normalize(predicted, dim=-1)
    similarity = predicted @ embeddings.transpose(1, 2)  # [object, target, candidate]
    own = similarity.diagonal(dim1=1, dim2=2)[..., None]
    return 1 + (similarity > own).sum(dim=2), (similarity == own).sum(dim=2) - 1


def queries_by_views(objects: Tensor) -> dict[int, NDArray[np.int64]]:
    """Rows `[object, view]` of the objects with V views, for each V of at least two.

    Raises:
        InvalidInput: no object has two views.
    """
    object_of = objects.numpy()
    order = np.argsort(object_of, kind="stable")
    _, start, count = np.unique(object_of[order], return_index=True, return_counts=True)
    found = {
        int(views): order[start[count == views][:, None] + np.arange(views)] for views in np.unique(count) if views > 1
    }
    if not found:
        raise InvalidInput("retrieval: no object has two views; it needs samples that store several")
    return found


def _ranks(views: PredictedViews) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], Tensor]:
    """Of every query: rank, ties, number of views of its object, row."""
    found = []
    for num_views, table in queries_by_views(views.objects).items():
        for block in torch.split(torch.from_numpy(table), max(1, _BLOCK // num_views)):
            rank, ties = view_ranks(views.embeddings[block], views.predicted[block])
            found.append(torch.stack([rank, ties, torch.full_like(rank, num_views), block]).flatten(1))
    rank, ties, count, rows = torch.cat(found, dim=1)
    return rank.numpy(), ties.numpy(), count.numpy(), rows


def _each(chance: Callable[[int], float], num_views: NDArray[np.int64]) -> NDArray[np.float64]:
    counts, place = np.unique(num_views, return_inverse=True)
    return np.array([chance(int(count)) for count in counts])[place]


def _recorded(head: EquivariantHead, *, width: int) -> Recorded:
    """What the head follows, when it can be asked about stored views with features of this width."""
    config = head.config
    relation = RELATIONS[config.transformation]
    if not isinstance(relation, Recorded):
        raise InvalidInput(
            f"retrieval: the head follows the transformation {config.transformation!r}, which stored views do not "
            "record; measure a head that follows a recorded one, such as rotation"
        )
    if width != config.part_dim:
        raise InvalidInput(
            f"retrieval: the head embeds the {config.part_dim} features of part {config.part!r}, got {width}; "
            "give it that part"
        )
    return relation


def _or_object(groups: NDArray[np.int64], objects: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(np.where(groups < 0, groups.max() + 1 + objects, groups))
