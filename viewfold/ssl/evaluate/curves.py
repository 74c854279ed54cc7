"""Invariance curves: how far features move, and how often predictions change, as a transformation grows stronger."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from viewfold.ssl.evaluate.drift import agreement_chance, cosine_drift, drift_chance
from viewfold.ssl.evaluate.interval import Interval
from viewfold.ssl.evaluate.means import mean_intervals
from viewfold.ssl.evaluate.measure import Measure, finite

Encode = Callable[[Tensor], Tensor]
"""Images to features `[image, dim]`, rows in the order of the images."""
Predict = Callable[[Tensor], Tensor]
"""Features to classes, int64 `[image]`."""


@dataclass(frozen=True, kw_only=True)
class Transformation:
    """What is done to the images of a curve, and how strongly."""

    name: str
    """Such as `rotation`."""
    unit: str
    """What a strength counts, such as `degrees`."""
    strengths: Sequence[float]
    """At least two; the first is the identity, and each is stronger than the one before."""
    apply: Callable[[Tensor, float], Tensor]
    """Images (float `[image, 3, height, width]` in 0..1) and a strength to images; nothing in it is random."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Drift and prediction change at each strength of one transformation."""

    name: str
    unit: str
    strengths: list[float]
    """The first is the identity."""
    drift: list[Interval]
    """At each strength the mean over images of 1 - cos(f(x), f(T x)), 0..2: value and 95 % interval over groups."""
    mean_drift: Interval
    """Mean of `drift` over the strengths behind the first, all counted alike."""
    drift_chance: float
    """Mean of 1 - cos between different images: where a curve arrives when nothing of an image is recognised."""
    change: list[Interval] | None
    """At each strength the share of images whose predicted class is not the one at the first; None without classes."""
    change_chance: float | None
    """Share of pairs of images, drawn independently, whose predicted classes differ."""
    n: int
    """Images."""

    def measure(self) -> Measure:
        """`curve/NAME`: the mean drift; lower is more invariant, 0 is perfectly so."""
        return Measure(
            name=f"curve/{self.name}",
            **self.mean_drift._asdict(),
            chance=self.drift_chance,
            n=self.n,
            detail={"unit": self.unit, "strengths": self.strengths[1:]},
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; an interval becomes `[value, low, high]`."""
        return {
            **vars(self),
            "drift": [list(point[:3]) for point in self.drift],
            "mean_drift": list(self.mean_drift[:3]),
            "change": None if self.change is None else [list(point[:3]) for point in self.change],
        }


def invariance_curve(
    encode: Encode,
    images: Float[Tensor, "image 3 height width"],
    transformation: Transformation,
    *,
    predict: Predict | None = None,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> Curve:
    """The curve of `encode` under one transformation of `images` in 0..1; x is an image at the first strength.

    `groups` are ints `[image]` of what is not independent (an object, a patient), -1 for none; the bootstrap draws
    these. `predict` is a classifier fitted to the features of other images.

    Raises:
        InvalidInput: fewer than two images, or features that are nan or infinite.
    """
    return drift_curve(
        [encode(transformation.apply(images, strength)) for strength in transformation.strengths],
        transformation,
        predict=predict,
        groups=groups,
        seed=seed,
    )


def drift_curve(
    features: Sequence[Float[Tensor, "image dim"]],
    transformation: Transformation,
    *,
    predict: Predict | None = None,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> Curve:
    """The curve of images that are encoded already, once at each strength: one encoding serves every part of it."""
    own = [finite(moved) for moved in features]
    alone = np.full(len(own[0]), -1) if groups is None else np.asarray(groups, dtype=np.int64)
    drift = torch.stack([cosine_drift(own[0], moved) for moved in own], dim=1).numpy()
    *each, mean_drift = mean_intervals(np.column_stack([drift, drift[:, 1:].mean(axis=1)]), alone, seed=seed)
    classes = [] if predict is None else [predict(moved).cpu() for moved in own]
    changed = [(now != classes[0]).double() for now in classes]
    return Curve(
        name=transformation.name,
        unit=transformation.unit,
        strengths=[float(strength) for strength in transformation.strengths],
        drift=each,
        mean_drift=mean_drift,
        drift_chance=drift_chance(own[0]),
        change=mean_intervals(torch.stack(changed, dim=1).numpy(), alone, seed=seed) if classes else None,
        change_chance=1 - agreement_chance(classes[0]) if classes else None,
        n=len(own[0]),
    )
