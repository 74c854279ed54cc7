"""Which nights' folders stay: the latest, and every one that an alias, the way back or the service leads to."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from viewfold.jobs.courier import settle
from viewfold.jobs.nightly_config import NightlyConfig
from viewfold.jobs.nightly_night import Night, now
from viewfold.jobs.nightly_service import client_of, pair_served
from viewfold.jobs.registry import CHAMPION, Registry, VersionFacts
from viewfold.retrieval import ServiceError

_GONE = ".gone"
_PLACES = ("run_folder", "bundle")


def prune(config: NightlyConfig, registry: Registry, before: Sequence[Night], current: Night) -> dict[str, Any]:
    """Remove the folders of nights that are over, but for the newest `keep` and those in use; say which.

    One of whose tracked runs the server has not taken all stays, too. Of nights that stay, all but the current one lose
    their checkpoints, from which nothing is served. A version whose folder is removed is tagged `pruned`. Where a
    service is named that does not say what it serves, nothing is removed. What the storage does not let go is in
    `stuck`, and left to the next night.
    """
    home, stuck = current.folder.parent, list[str]()
    for left in home.glob(f".*{_GONE}"):  # of a process that was killed as it removed them
        stuck += _cleared(left)
    versions = registry.versions(config.name)
    try:
        used = _used(config, versions)
    except ServiceError as error:
        skipped = f"nothing removed, for the service does not say what it serves: {error}"
        return {"removed": [], "skipped": skipped, "stuck": stuck}
    over = [night for night in before if night.outcome is not None and night.folder != current.folder]
    told = [night for night in over if night.outcome != "abandoned"]
    latest = {night.folder for night in told[: config.keep - 1]}
    removed = []
    for night in over:
        if night.folder in latest or _is_used(night, used) or not settle(night.run):
            stuck += _drop_checkpoints(night.run)
        else:
            _mark(registry, versions, night)
            stuck += _remove(night.folder)
            removed.append(night.folder.name)
    return {"removed": removed, "skipped": "", "stuck": stuck}


def _used(config: NightlyConfig, versions: Sequence[VersionFacts]) -> list[Path]:
    """Folders that must stay."""
    champion = next((one for one in versions if CHAMPION in one.aliases), None)
    way_back = None if champion is None else champion.tags.get("replaces")
    used = [one for one in versions if one.aliases or one.version == way_back]
    if config.service is not None:
        with client_of(config.service) as client:
            served = pair_served(client)["bundle"]["id"]
        used += [one for one in versions if one.tags.get("bundle_id") == served]
    return [Path(one.tags[place]) for one in used for place in _PLACES if place in one.tags]


def _is_used(night: Night, used: Sequence[Path]) -> bool:
    folder = night.folder.resolve()
    return any(path.is_relative_to(folder) for path in used)


def _mark(registry: Registry, versions: Sequence[VersionFacts], night: Night) -> None:
    """First, so that no version is ever without its folder and does not say so."""
    folder = str(night.run.resolve())
    for one in versions:
        if one.tags.get("run_folder") == folder:
            registry.tag(one.name, one.version, {"pruned": now()})


def _remove(folder: Path) -> list[str]:
    """In one step for whoever looks for it."""
    gone = folder.with_name(f".{folder.name}{_GONE}")
    try:
        folder.rename(gone)
    except OSError as error:
        return [_why(folder, error)]
    return _cleared(gone)


def _drop_checkpoints(run: Path) -> list[str]:
    found = [run / stage / "checkpoints" for stage in ("pretrain", "adapt")]
    return [why for folder in found if folder.is_dir() for why in _cleared(folder)]


def _cleared(folder: Path) -> list[str]:
    """Why it is not gone, if it is not: a night does not fail for what is in its way here."""
    try:
        shutil.rmtree(folder)
    except OSError as error:
        return [_why(folder, error)]
    return []


def _why(folder: Path, error: OSError) -> str:
    return f"{folder}: {error.strerror or error}"
