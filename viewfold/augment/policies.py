"""Policies: which families make a view, in which order. A new one is a class and a line in `POLICIES`."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

from viewfold.augment.affine import Affine, AffineConfig
from viewfold.augment.blur import Blur, BlurConfig
from viewfold.augment.colour import Colour, ColourConfig
from viewfold.augment.crop import Crop, CropConfig
from viewfold.augment.field_colour import FieldColour, FieldColourConfig
from viewfold.augment.field_warp import FOLD_BUDGET, FieldWarp, FieldWarpConfig
from viewfold.augment.grayscale import Grayscale, GrayscaleConfig
from viewfold.augment.haar import HaarAffine, HaarAffineConfig
from viewfold.augment.solarize import Solarize, SolarizeConfig
from viewfold.augment.stain import Stain, StainConfig
from viewfold.augment.transform import Transform
from viewfold.config import Config


class PolicyConfig(Config, ABC):
    """What is common to policies: an ordered list of families, possibly empty."""

    @abstractmethod
    def transforms(self) -> tuple[Transform, ...]:
        """The families in their order: first those that move points, a field warp last of them, then colours."""


@dataclass(frozen=True, kw_only=True)
class NonePolicy(PolicyConfig):
    """The stored images themselves."""

    name: Literal["none"] = "none"

    def transforms(self) -> tuple[Transform, ...]:
        """No family."""
        return ()


@dataclass(frozen=True, kw_only=True)
class SIEObjectsPolicy(PolicyConfig):
    """The stored images of an object with known poses: the rendering was the augmentation (2302.10283)."""

    name: Literal["sie-objects"] = "sie-objects"

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
    grayscale: GrayscaleConfig = field(default_factory=GrayscaleConfig)

    def transforms(self) -> tuple[Transform, ...]:
        """Affine, colour, grey."""
        return (Affine(self.affine), Colour(self.colour), Grayscale(self.grayscale))


@dataclass(frozen=True, kw_only=True)
class AffineHaarPolicy(PolicyConfig):
    """Views that differ by an affine transformation drawn evenly over the group GL+(2)."""

    name: Literal["affine-haar"] = "affine-haar"
    affine: HaarAffineConfig = field(default_factory=HaarAffineConfig)

    def transforms(self) -> tuple[Transform, ...]:
        """The Haar-affine family."""
        return (HaarAffine(self.affine),)


@dataclass(frozen=True, kw_only=True)
class SimCLRPolicy(PolicyConfig):
    """The usual crops, mirroring, colour jitter, grey and blur of contrastive learning (2002.05709, appendix A)."""

    name: Literal["simclr"] = "simclr"
    crop: CropConfig = field(default_factory=lambda: CropConfig(area=(0.08, 1.0)))
    colour: ColourConfig = field(
        default_factory=lambda: ColourConfig(
            log_brightness=0.6, log_contrast=0.6, log_saturation=0.6, hue_turns=0.2, probability=0.8
        )
    )
    grayscale: GrayscaleConfig = field(default_factory=GrayscaleConfig)
    blur: BlurConfig = field(default_factory=BlurConfig)
    solarize: SolarizeConfig = field(default_factory=lambda: SolarizeConfig(probability=0.0))
    """Off here; BYOL (2006.07733) has it in a fifth of its second views."""

    def transforms(self) -> tuple[Transform, ...]:
        """Crop, colour, grey, blur, and solarize if its probability is above 0."""
        colours = (Colour(self.colour), Grayscale(self.grayscale), Blur(self.blur))
        return (Crop(self.crop), *colours, *((Solarize(self.solarize),) if self.solarize.probability else ()))


@dataclass(frozen=True, kw_only=True)
class FieldPolicy(PolicyConfig, ABC):
    """Crop, then warp and colours that vary over the image as Gaussian random fields, grey and blur (2311.03629)."""

    crop: CropConfig = field(default_factory=CropConfig)
    warp: FieldWarpConfig = field(default_factory=FieldWarpConfig)
    colour: FieldColourConfig = field(default_factory=FieldColourConfig)
    grayscale: GrayscaleConfig = field(default_factory=GrayscaleConfig)
    blur: BlurConfig = field(default_factory=BlurConfig)

    def transforms(self) -> tuple[Transform, ...]:
        """Crop, warp, colour, grey, blur."""
        colours = (FieldColour(self.colour), Grayscale(self.grayscale), Blur(self.blur))
        return (Crop(self.crop), FieldWarp(self.warp), *colours)


def _warp(translate_sd: float, rotation_sd: float, log_scale_sd: float, shear_sd: float) -> FieldWarpConfig:
    return FieldWarpConfig(
        translate_sd=translate_sd,
        rotation_sd=rotation_sd,
        log_scale_sd=log_scale_sd,
        shear_sd=shear_sd,
        probability=0.5,
    )


def _colours(log_sd: float, hue_sd: float) -> FieldColourConfig:
    return FieldColourConfig(
        log_brightness_sd=log_sd,
        log_contrast_sd=log_sd,
        log_saturation_sd=log_sd,
        hue_sd=hue_sd,
        probability=0.8,
    )


@dataclass(frozen=True, kw_only=True)
class FieldMildPolicy(FieldPolicy):
    """Random fields that are hardly seen: a first try on new data."""

    name: Literal["field-mild"] = "field-mild"
    warp: FieldWarpConfig = field(default_factory=lambda: _warp(0.01, 0.02, 0.02, 0.02))
    colour: FieldColourConfig = field(default_factory=lambda: _colours(0.15, 0.03))


@dataclass(frozen=True, kw_only=True)
class FieldMediumPolicy(FieldPolicy):
    """Random fields that are seen, with objects that keep their shape."""

    name: Literal["field-medium"] = "field-medium"
    warp: FieldWarpConfig = field(default_factory=lambda: _warp(0.02, 0.05, 0.05, 0.04))
    colour: FieldColourConfig = field(default_factory=lambda: _colours(0.3, 0.06))


@dataclass(frozen=True, kw_only=True)
class FieldStrongPolicy(FieldPolicy):
    """Random fields that break the structure of an image: the negative control."""

    name: Literal["field-strong"] = "field-strong"
    warp: FieldWarpConfig = field(default_factory=lambda: _warp(0.10, 0.40, 0.40, 0.40))
    colour: FieldColourConfig = field(default_factory=lambda: _colours(1.0, 0.35))


@dataclass(frozen=True, kw_only=True)
class MedicalHistologyPolicy(PolicyConfig):
    """Stained tissue, which has no upright and whose colours are the laboratory's: any turn, stain jitter."""

    name: Literal["medical-histology"] = "medical-histology"
    crop: CropConfig = field(default_factory=lambda: CropConfig(area=(0.5, 1.0)))
    affine: AffineConfig = field(
        default_factory=lambda: AffineConfig(rotation_rad=math.pi, log_scale=0.1, shear_rad=0.0, translate_ratio=0.0)
    )
    warp: FieldWarpConfig = field(default_factory=lambda: _warp(0.01, 0.02, 0.02, 0.02))
    stain: StainConfig = field(default_factory=StainConfig)
    blur: BlurConfig = field(default_factory=lambda: BlurConfig(probability=0.2))

    def transforms(self) -> tuple[Transform, ...]:
        """Crop, affine, warp, stain, blur."""
        return (Crop(self.crop), Affine(self.affine), FieldWarp(self.warp), Stain(self.stain), Blur(self.blur))


POLICIES: dict[str, type[PolicyConfig]] = {
    "affine": AffinePolicy,
    "affine-colour": AffineColourPolicy,
    "affine-haar": AffineHaarPolicy,
    "field-medium": FieldMediumPolicy,
    "field-mild": FieldMildPolicy,
    "field-strong": FieldStrongPolicy,
    "medical-histology": MedicalHistologyPolicy,
    "none": NonePolicy,
    "sie-objects": SIEObjectsPolicy,
    "simclr": SimCLRPolicy,
}


def policy_warnings(policy: PolicyConfig) -> list[str]:
    """What in a policy's settings is likely to spoil the images, one line each."""
    budgets = [warp.config.gradient_budget for warp in policy.transforms() if isinstance(warp, FieldWarp)]
    return [
        f"the warp's gradient budget is {budget:.2f}, over {FOLD_BUDGET:.2f}: views may fold over; lower its "
        "*_sd, raise field.torus, or look at `viewfold augment preview`"
        for budget in budgets
        if budget > FOLD_BUDGET
    ]
