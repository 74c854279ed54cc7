"""Abstention: improbable demonstrations are dropped, and with too few left something else is shown, or nothing."""

from dataclasses import dataclass
from typing import Literal

from viewfold.config import Config, check_ranges
from viewfold.errors import InvalidInput
from viewfold.retrieval.index.bundle import IndexBundle
from viewfold.retrieval.selection.calibration import Calibration, calibration_of


@dataclass(frozen=True, kw_only=True)
class AbstainConfig(Config):
    """When demonstrations are too improbable to be shown."""

    min_p_match: float = 0.0
    """Choices whose probability of carrying the query's label is below this are dropped; 0 keeps all."""
    k_min: int = 1
    """With fewer than this many left the fallback takes their place; only where `min_p_match` drops any."""
    fallback: Literal["zero_shot", "stratified_random"] = "zero_shot"
    """No demonstrations, or `k` drawn at random with as many of each class."""
    calibration: Calibration | None = None
    """From cosine to probability; by default that of the file `calibration.json` in the bundle's folder, if any."""

    def __post_init__(self) -> None:
        check_ranges(self, min_p_match=(0, 1))
        if self.k_min < 0:
            raise ValueError(f"k_min must be 0 or more, got {self.k_min}")
        if self.min_p_match == 0 and (self.k_min, self.fallback) != (AbstainConfig.k_min, AbstainConfig.fallback):
            raise ValueError(
                f"k_min={self.k_min} and fallback={self.fallback!r} do nothing while min_p_match is 0, which drops "
                "nothing; set min_p_match above 0, or leave them out"
            )


def resolved(
    bundle: IndexBundle, config: AbstainConfig, default: Calibration | Literal["folder"] | None = "folder"
) -> Calibration | None:
    """The calibration to use; None where none is given or found and nothing is to be dropped.

    `default` stands in where the configuration has none: that of the bundle's folder, another one, or none.

    Raises:
        InvalidInput: choices are to be dropped by a probability, and there is no calibration.
        ArtifactMismatch: the calibration is of another encoder.
    """
    found = config.calibration or (calibration_of(bundle) if isinstance(default, str) else default)
    if found is None:
        if config.min_p_match > 0:
            raise InvalidInput(
                f"{bundle.folder}: min_p_match={config.min_p_match} needs a calibration, and there is none; fit one "
                "with fit_calibration"
            )
        return None
    found.check(bundle.info.encoder_id)
    return found
