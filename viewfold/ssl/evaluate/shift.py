"""One-pixel realistic shift: the window moves over a larger picture, so new content enters at one side."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from numpy.typing import ArrayLike
from torch import Tensor

from viewfold.errors import InvalidInput
from viewfold.ssl.evaluate.curves import Encode, Predict
from viewfold.ssl.evaluate.drift import agreement_chance, cosine_drift, drift_chance
from viewfold.ssl.evaluate.means import mean_intervals
from viewfold.ssl.evaluate.measure import Measure, finite
from viewfold.ssl.robust_crop import all_shifts_chance, same_crop_chance

SHIFTS = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0))
"""The eight shifts by one pixel, (down, right)."""


def shift_measures(
    encode: Encode,
    canvases: UInt8[Tensor, "image 3 height width"],
    window: int,
    *,
    predict: Predict | None = None,
    crop: Callable[[Tensor], Tensor] | None = None,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> list[Measure]:
    """What f, `encode` of the `window` x `window` pixels in the middle of each canvas, makes of the eight shifts.

    `shift/drift`: mean of 1 - cos(f(x), f(shifted x)) over images and shifts; chance: between different images.
    With `predict`, from features to classes, also (arXiv:2404.07153)
    `shift/consistency`: share of images and shifts with the class of the unshifted window; chance: two images, drawn
    independently, are given the same class;
    `shift/adversarial`: share of images whose class none of the shifts changes; chance: nine independent images agree.
    A constant f is above all of these: read them beside an accuracy.

    `encode` is given uint8. `crop`, such as `robust_crop`, is applied to each window first; how often it then chooses
    the same pixels is in `detail`, with the law of `robust_crop` for this window. Intervals are over `groups`.

    Raises:
        InvalidInput: canvases not at least two pixels larger than the window, fewer than two images, or features that
            are nan or infinite.
    """
    centre = _seen(canvases, window, (0, 0), crop)
    still = finite(encode(centre))
    classes = None if predict is None else predict(still).cpu()
    drifts, same_class, same_crop = [], [], []
    for shift in SHIFTS:
        seen = _seen(canvases, window, shift, crop)
        features = finite(encode(seen))
        drifts.append(cosine_drift(still, features))
        same_crop.append((seen == centre).flatten(1).all(1).cpu())
        if predict is not None and classes is not None:
            same_class.append(predict(features).cpu() == classes)
    detail: dict[str, Any] = {"window": window, "num_shifts": len(SHIFTS)}
    if crop is not None:
        detail |= _crop_detail(torch.stack(same_crop, dim=1), window, centre.shape[-1])
    rows = [("shift/drift", torch.stack(drifts, dim=1).mean(1), drift_chance(still))]
    if classes is not None:
        same = torch.stack(same_class, dim=1)
        rows.append(("shift/consistency", same.double().mean(1), agreement_chance(classes)))
        rows.append(("shift/adversarial", same.all(1).double(), agreement_chance(classes, 1 + len(SHIFTS))))
    alone = np.full(len(canvases), -1) if groups is None else np.asarray(groups, dtype=np.int64)
    intervals = mean_intervals(np.column_stack([row for _, row, _ in rows]), alone, seed=seed)
    return [
        Measure(name=name, **interval._asdict(), chance=chance, n=len(canvases), detail=detail)
        for (name, _, chance), interval in zip(rows, intervals, strict=True)
    ]


def _seen(
    canvases: Tensor, window: int, shift: tuple[int, int], crop: Callable[[Tensor], Tensor] | None
) -> UInt8[Tensor, "image 3 crop_height crop_width"]:
    """The window in the middle, moved by `shift`, as `encode` gets it."""
    height, width = canvases.shape[2:]
    if min(height, width) < window + 2:
        raise InvalidInput(
            f"a window of {window} px cannot be shifted by one pixel on a canvas of {height} x {width}: "
            f"decode the images at {window + 2} px or more, or take a smaller window"
        )
    top, left = (height - window) // 2 + shift[0], (width - window) // 2 + shift[1]
    seen = canvases[:, :, top : top + window, left : left + window].contiguous()
    return seen if crop is None else crop(seen)


def _crop_detail(same: Bool[Tensor, "image shift"], window: int, size: int) -> dict[str, float]:
    """Share of shifts that left the chosen crop as it was (along an axis, a diagonal, all eight), beside the law."""
    diagonal = torch.tensor([down != 0 and right != 0 for down, right in SHIFTS])
    whole = (window, window)
    return {
        "crop": size,
        "same_crop_axis": float(same[:, ~diagonal].double().mean()),
        "same_crop_axis_law": same_crop_chance(whole, size, (0, 1)),
        "same_crop_diagonal": float(same[:, diagonal].double().mean()),
        "same_crop_diagonal_law": same_crop_chance(whole, size, (1, 1)),
        "same_crop_all": float(same.all(1).double().mean()),
        "same_crop_all_law": all_shifts_chance(whole, size),
    }
