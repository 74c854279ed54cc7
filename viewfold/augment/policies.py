"""Policies: which families make a view, in which order. A new one is a class and a line in `POLICIES`."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

from viewfold.augment.affine import Affine, AffineConfig
from viewfold.augment.colour import Colour, ColourConfig
from viewfold.augment.transform import Transform
from viewfold.config import Config


class PolicyConfig(Config, ABC):
    """What is common to policies: an ordered list of families, possibly empty."""

    @abstractmethod
    def transforms(self) -> tuple[Transform, ...]:
        """The families in the order in which they are applied; their columns follow each other in the parameters."""


@dataclass(frozen=True, kw_only=True)
class NonePolicy(PolicyConfig):
    """The stored images themselves: for objects whose poses were recorded, the pictures are the views."""

    name: Literal["none"] = "none"

    def transforms(self) -> tuple[Transform, ...]:
        """No family."""
        return ()


@dataclass(frozen=True, kw_only=True)
class AffinePolicy(PolicyConfig):
    """Views that differ by a drawn affine transformation."""

    name: Literal["affine"] = "affine"
    affine: AffineConfig = field(default_factory=AffineConfig)

    def transforms(self) -> tuple[Transform, ...]:
        """The affine family."""
        return (Affine(self.affine),)


@dataclass(frozen=True, kw_only=True)
class AffineColourPolicy(PolicyConfig):
    """Views that differ by a drawn affine transformation and by drawn colour changes."""

    name: Literal["affine-colour"] = "affine-colour"
    affine: AffineConfig = field(default_factory=AffineConfig)
    colour: ColourConfig = field(default_factory=ColourConfig)

    def transforms(self) -> tuple[Transform, ...]:
        """Affine first: its borders are reflected before the colours change, as if the scene had been larger."""
        return (Affine(self.affine), Colour(self.colour))


POLICIES: dict[str, type[PolicyConfig]] = {
    "affine": AffinePolicy,
    "affine-colour": AffineColourPolicy,
    "none": NonePolicy,
}
