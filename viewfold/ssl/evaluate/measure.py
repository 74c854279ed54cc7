"""What a protocol is given, and what it answers: a split of frozen features, and one measure a number."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from viewfold.errors import InvalidInput
from viewfold.ssl.evaluate.interval import Interval


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One measured number with what is needed to read it."""

    name: str
    """Protocol and number, such as `knn5/top1`."""
    value: float
    low: float | None
    """Lower end of the 95 % bootstrap interval over groups; None where there is no more than one group."""
    high: float | None
    chance: float
    """What a predictor that never looks at the image reaches on the same split."""
    n: int
    """Rows (queries, pairs, images) that the value was computed from."""
    detail: dict[str, Any] = field(default_factory=dict)
    """Plain data: settings and counts that belong beside the value."""
    draws: tuple[float, ...] | None = field(default=None, compare=False, repr=False)
    """Of the bootstrap, for the difference from another encoder's on the same rows; not among the plain data."""

    def of_part(self, part: str) -> "Measure":
        """The same under the name `part/...`: of which part of the features it was measured."""
        return replace(self, name=f"{part}/{self.name}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "draws"}

    @property
    def interval(self) -> Interval:
        """Value, ends and draws."""
        return Interval(self.value, self.low, self.high, self.draws)


@dataclass(frozen=True)
class Split:
    """Frozen features of one split, with what is known of each row."""

    features: Tensor
    """float32 `[row, dim]`, finite."""
    label: Tensor
    """int64 `[row]`, -1 for none."""
    group: Tensor
    """int64 `[row]`: rows that are not independent of each other (one object, one patient); -1 for none."""

    @classmethod
    def of(
        cls, features: ArrayLike | Tensor, label: ArrayLike | Tensor, group: ArrayLike | Tensor | None = None
    ) -> "Split":
        """A split from arrays or tensors on any device; without `group` every row stands alone.

        Raises:
            InvalidInput: some features are nan or infinite.
        """
        own = finite(features)
        alone = torch.full((len(own),), -1) if group is None else group
        return cls(own, _integers(label), _integers(alone))

    def labelled(self) -> "Split":
        """The rows that have a label.

        Raises:
            InvalidInput: there is none.
        """
        keep = self.label >= 0
        if not keep.any():
            raise InvalidInput(
                f"none of the {len(keep)} samples has a label: kNN and linear accuracy need labelled data"
            )
        return Split(self.features[keep], self.label[keep], self.group[keep])


def finite(features: ArrayLike | Tensor) -> Tensor:
    """`features` as float32 on the CPU, refused when some are nan or infinite."""
    own = torch.as_tensor(features).detach().to("cpu", torch.float32)
    bad = int((~own.isfinite()).any(dim=1).sum())
    if bad:
        raise InvalidInput(
            f"features of {bad} of {len(own)} images are nan or infinite: the encoder diverged, retrain it"
        )
    return own


def _integers(values: ArrayLike | Tensor) -> Tensor:
    return torch.as_tensor(values).detach().to("cpu", torch.int64)
