"""What a new version of a model must show before it becomes the champion."""

import math
from dataclasses import dataclass, field

from viewfold.config import Config, check_ranges


@dataclass(frozen=True, kw_only=True)
class GateConfig(Config):
    """One measure of an encoder, which is to be high."""

    at_least: float | None = None
    """What the value must reach on the queries of its own run; None asks for nothing."""
    may_fall: float | None = 0.03
    """How far it may lie below the champion's on the same queries; None asks for nothing. Where the difference has an
    interval its low end is held against this, so that too few queries to tell refuse as well."""
    required: bool = False
    """Whether data that cannot show the measure refuse the version; else they skip the gate."""

    def __post_init__(self) -> None:
        _numbers(at_least=self.at_least)
        _no_less_than_zero(may_fall=self.may_fall)


@dataclass(frozen=True, kw_only=True)
class RankGateConfig(Config):
    """The effective rank of the features, which falls towards 1 as they collapse."""

    at_least: float | None = 2.0
    """What it must reach on the queries of its own run; None asks for nothing."""
    may_fall: float | None = 0.2
    """How far it may lie below the champion's on the same queries, as a share of that one's; None asks for nothing."""
    required: bool = False
    """As for the other gates."""

    def __post_init__(self) -> None:
        _numbers(at_least=self.at_least)
        _no_less_than_zero(may_fall=self.may_fall)


@dataclass(frozen=True, kw_only=True)
class RecallGateConfig(Config):
    """How much of what exact search finds the index of the version finds: `recall_at_10` of its bundle."""

    at_least: float = 0.9
    """What it must reach."""
    required: bool = False
    """Whether a version without an index is refused; else the gate is skipped."""

    def __post_init__(self) -> None:
        check_ranges(self, at_least=(0.0, 1.0))


@dataclass(frozen=True, kw_only=True)
class LatencyGateConfig(Config):
    """Median milliseconds of a search in the index of the version, measured where and when it was built."""

    at_most: float | None = 50.0
    """What it may take; None asks for nothing."""
    may_grow: float | None = None
    """How many times as long as the champion's it may take. None asks for nothing, as where the two were built on
    machines that differ, or are so small that their times are noise."""
    required: bool = False
    """Whether a version without an index is refused; else the gate is skipped."""

    def __post_init__(self) -> None:
        _no_less_than_zero(at_most=self.at_most, may_grow=self.may_grow)


@dataclass(frozen=True, kw_only=True)
class GatesConfig(Config):
    """All gates; one that is None is not asked. A first version, with no champion, is held against floors alone."""

    knn: GateConfig | None = field(default_factory=GateConfig)
    """Top-1 accuracy of nearest neighbours in the invariant part, among as many as the run's `evaluate.k` says."""
    precision: GateConfig | None = field(default_factory=GateConfig)
    """Share of the nearest training images, by the invariant part, that are of the query's class."""
    precision_k: int = 7
    """How many of them."""
    rotation_r2: GateConfig | None = field(default_factory=GateConfig)
    """Variance-weighted R2 of the rotation between two views, from the equivariant part."""
    effective_rank: RankGateConfig | None = field(default_factory=RankGateConfig)
    """Dimensions that the invariant part uses."""
    shift_consistency: GateConfig | None = field(default_factory=GateConfig)
    """Share of images whose class, by a linear classifier of the invariant part, a shift by one pixel leaves."""
    shift_images: int = 256
    """Images that are shifted, or as many as there are."""
    bundle_recall: RecallGateConfig | None = field(default_factory=RecallGateConfig)
    bundle_latency_ms: LatencyGateConfig | None = field(default_factory=LatencyGateConfig)

    def __post_init__(self) -> None:
        check_ranges(self, precision_k=(1, 1000), shift_images=(2, 100_000))


def _numbers(**values: float | None) -> None:
    """Nothing is less than nan, so that it would switch a gate off unseen."""
    for name, value in values.items():
        if value is not None and math.isnan(value):
            raise ValueError(f"{name} must be a number, or null for no limit, got {value}")


def _no_less_than_zero(**values: float | None) -> None:
    _numbers(**values)
    for name, value in values.items():
        if value is not None and value < 0:
            raise ValueError(f"{name} must be 0 or more, or null for no limit, got {value}")
