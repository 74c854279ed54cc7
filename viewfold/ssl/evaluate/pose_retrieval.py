"""Whether a predictor leads to the right pose among all views of all objects: PRE of arXiv:2302.10283."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from viewfold.ssl.evaluate.means import mean_intervals
from viewfold.ssl.evaluate.measure import Measure
from viewfold.ssl.evaluate.retrieval import PredictedViews, queries_by_views
from viewfold.ssl.geometry import quaternion_from_angles

Search = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.int64]]
"""Unit vectors of a gallery `[row, dim]` and of queries `[query, dim]`, to the row of the largest inner product with
each query, `[query]`."""
_BLOCK = 2**24  # similarities held at a time


class Gallery(NamedTuple):
    """Views that may be retrieved."""

    embeddings: Tensor
    """float32 `[image, dim]`, not normalised."""
    angles: ArrayLike | Tensor
    """`[image, 3]`: the pose of each, Euler angles in radians."""


def nearest(gallery: NDArray[np.float32], queries: NDArray[np.float32]) -> NDArray[np.int64]:
    """A `Search` that compares every query with every row; of equals, the first."""
    rows = max(1, _BLOCK // len(gallery))
    found = [(queries[i : i + rows] @ gallery.T).argmax(axis=1) for i in range(0, len(queries), rows)]
    return np.concatenate(found)


def prediction_error(
    views: PredictedViews,
    angles: ArrayLike | Tensor,
    *,
    train: Gallery | None = None,
    search: Search = nearest,
    seed: int = 0,
) -> list[Measure]:
    """`retrieval/pre`: how far the pose of the view that is retrieved lies from the true one. Lower is better.

    Retrieved is the view whose embedding is nearest to the prediction, by cosine, and the error is
    1 - <q_true, q_retrieved>^2: sin^2 of half the angle between the two poses, 0 to 1.

    The gallery is all images of the split; with `train`, `retrieval/pre_all` is measured too, of the training images
    and then those. `angles` is `[image, 3]`: the poses of `views`, Euler angles in radians. Chance is a view drawn from
    the gallery; `one_answer` in the detail is what always retrieving the best one view would give.

    Raises:
        InvalidInput: no object has two views.
    """
    own = Gallery(views.embeddings, angles)
    measures = [_error("retrieval/pre", views, own, _poses(angles), search=search, seed=seed)]
    if train is not None:
        both = Gallery(
            torch.cat([train.embeddings, own.embeddings]),
            torch.cat([torch.as_tensor(train.angles).cpu().double(), torch.as_tensor(angles).cpu().double()]),
        )
        measures.append(_error("retrieval/pre_all", views, both, _poses(angles), search=search, seed=seed))
    return measures


def _error(
    name: str, views: PredictedViews, gallery: Gallery, poses: NDArray[np.float64], *, search: Search, seed: int
) -> Measure:
    rows = np.concatenate([table.ravel() for table in queries_by_views(views.objects).values()])
    queries = F.normalize(views.predicted[torch.from_numpy(rows)], dim=1).numpy()
    shelf, asked = _poses(gallery.angles), poses[rows]
    found = search(F.normalize(gallery.embeddings, dim=1).numpy(), queries)
    errors = 1 - (asked * shelf[found]).sum(axis=1) ** 2
    moments = asked.T @ asked / len(asked), shelf.T @ shelf / len(shelf)
    detail = {
        "lower_is_better": True,
        "num_gallery": len(shelf),
        "one_answer": float(1 - np.einsum("ri,ij,rj->r", shelf, moments[0], shelf).max()),
    }
    (interval,) = mean_intervals(errors[:, None], views.group.numpy()[rows], seed=seed)
    return Measure(
        name=name,
        **interval._asdict(),
        chance=float(1 - np.trace(moments[0] @ moments[1])),  # E <q, g>^2 of independent q and g
        n=len(rows),
        detail=detail,
    )


def _poses(angles: ArrayLike | Tensor) -> NDArray[np.float64]:
    """Unit quaternions `[image, 4]`."""
    poses: NDArray[np.float64] = quaternion_from_angles(torch.as_tensor(angles).detach().cpu().double()).numpy()
    return poses
