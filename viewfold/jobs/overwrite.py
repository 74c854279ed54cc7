"""What a run in a folder that was registered before may do to the index there, from which a version may be served."""

import json

from viewfold.errors import InvalidInput
from viewfold.jobs.registry import CHALLENGER, CHAMPION, VersionFacts
from viewfold.jobs.run_folder import Run

REGISTRATION = "registered.json"
"""The file of the stage `register`."""
_TRAININGS = ("pretrain", "adapt")


def keep_champion(run: Run, stage: str) -> None:
    """Before `stage` is made: a challenger must not take the place of an index that another alias leads to.

    A training is refused before it begins, `index` only where the encoder is another one. A run with `alias=champion`
    may take it, for the alias then moves to what the run makes. The server is asked only where it has to be known.

    Raises:
        InvalidInput: it would, or the server does not answer.
    """
    registration = run.folder / "register" / REGISTRATION
    if stage not in (*_TRAININGS, "index") or run.config.alias != CHALLENGER or not registration.is_file():
        return
    name = json.loads(registration.read_text(encoding="utf-8"))["model"]
    for one in _registered_here(run, name):
        served = [alias for alias in one.aliases if alias != CHALLENGER]
        if served and (stage in _TRAININGS or one.tags.get("encoder_id") != _encoder_id(run)):
            raise InvalidInput(
                f"{run.folder}: models:/{name}@{served[0]}, version {one.version}, is served from the index here, of "
                "which a challenger would take the place; name another folder with --out"
            )


def lost_champion(run: Run, name: str) -> str:
    """A note, where the run's index has taken the place of the champion's; else empty."""
    for one in _registered_here(run, name):
        if CHAMPION in one.aliases and one.tags.get("encoder_id") != _encoder_id(run):
            return (
                f"note: version {one.version} of {name}, champion until now, has lost its index to this run in its "
                "folder, and cannot be rolled back to; give each version a folder of its own with --out"
            )
    return ""


def _registered_here(run: Run, name: str) -> list[VersionFacts]:
    bundle = str((run.folder / "index" / "bundle").resolve())
    return [one for one in run.registry().versions(name) if one.tags.get("bundle") == bundle]


def _encoder_id(run: Run) -> str:
    return str(json.loads((run.encoder / "encoder.json").read_text(encoding="utf-8"))["id"])
