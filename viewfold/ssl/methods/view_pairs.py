"""Losses of two views, taken over every pair of a sample's views: more to compare for each image that is encoded."""

from dataclasses import replace
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.errors import InvalidInput
from viewfold.ssl.batchnorm import each_view
from viewfold.ssl.encoder import Encoder
from viewfold.ssl.methods.method import Task
from viewfold.values import Views


def check_views(task: Task, *, method: str) -> None:
    """For `build`: raises InvalidInput where there is a single view of each sample."""
    if task.num_views < 2:
        raise InvalidInput(_too_few(method, task.num_views))


def view_features(encoder: Encoder, views: Views, *, method: str) -> Float[Tensor, "view batch dim"]:
    """Features of two or more views of each sample.

    Raises:
        InvalidInput: a single view; names the method.
    """
    if len(views.images) < 2:
        raise InvalidInput(_too_few(method, len(views.images)))
    return each_view(encoder, views.images)


def pairs(rows: Float[Tensor, "view batch ..."]) -> Float[Tensor, "2 pairs_times_batch ..."]:
    """First and second view of every pair i < j, pair after pair; of two views, the two as they are.

    Which view is which was drawn, so i < j prefers neither. With n views each image is compared n - 1 times for one
    pass through the encoder.
    """
    first, second = (torch.tensor(side) for side in zip(*combinations(range(len(rows)), 2), strict=True))
    return torch.stack([rows[first].flatten(0, 1), rows[second].flatten(0, 1)])


def paired(views: Views) -> Views:
    """What is known of the two views of every pair, in the rows of `pairs`; the images stay as they are.

    What was drawn between views (`relative`) is known of two views only, and left out with more.
    """
    num_views = len(views.images)
    if num_views == 2:
        return views
    times = num_views * (num_views - 1) // 2
    return replace(
        views,
        params=None if views.params is None else pairs(views.params),
        label=views.label.repeat(times),
        domain=views.domain.repeat(times),
        group=views.group.repeat(times),
        relative=None,
        relative_names=(),
    )


def _too_few(method: str, num_views: int) -> str:
    return (
        f"method {method} compares two views or more, got {num_views}; choose a policy that draws two, or set "
        "stream.images_per_sample=2 for samples of several images"
    )
