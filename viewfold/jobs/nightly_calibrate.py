"""A cosine means something else for each encoder: what the champion's index was calibrated to is fitted anew."""

from pathlib import Path

from viewfold.jobs.index_verbs import calibrate
from viewfold.jobs.registry import VersionFacts
from viewfold.retrieval.selection.calibration import FILE, Calibration


def calibration_of(version: VersionFacts) -> Path | None:
    """The file with the calibration of a version's index; None where it has none."""
    file = Path(version.tags["bundle"]) / FILE if "bundle" in version.tags else None
    return file if file is not None and file.is_file() else None


def calibrate_like(file: Path, champion: VersionFacts, version: VersionFacts) -> str:
    """Calibrate the index of `version` in the way of `file`, the champion's; what came of it, in one line.

    Raises:
        InvalidInput: it cannot be; says why.
    """
    kind = Calibration.load(file, encoder_id=champion.tags["encoder_id"]).kind
    return calibrate(Path(version.tags["bundle"]), kind=kind).partition("\n")[0]
