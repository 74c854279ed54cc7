"""Whether there is anything to do tonight: what lies in the shards now, against what nights before have seen.

Nothing here starts Ray or asks a server, and a look that finds nothing new does not even resolve the recipe.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from viewfold import __version__
from viewfold.config import fingerprint
from viewfold.jobs.data import shard_stamps
from viewfold.jobs.nightly_config import NightlyConfig
from viewfold.jobs.nightly_night import SETTLED, Night

_HASH_DIGITS = 8


@dataclass(frozen=True)
class Look:
    """The shards as they are now."""

    asked: dict[str, object]
    """What they were asked for by: a fingerprint of recipe and settings, and the patterns that those come to."""
    stamps: dict[str, str]
    """What changes with a shard, by its location."""

    @property
    def hash(self) -> str:
        """8 digits that change with any of them."""
        return fingerprint(self.stamps)[:_HASH_DIGITS]


def look(config: NightlyConfig, before: Sequence[Night]) -> Look:
    """The shards of the recipe's data.

    Raises:
        InvalidInput: no such recipe, or shards that are not there.
    """
    mark = recipe_mark(config)
    for night in before:  # resolving a recipe brings Ray and MLflow, which takes longer than all the rest
        asked = night.facts["asked"]
        if asked["fingerprint"] == mark:
            return Look(asked, shard_stamps(tuple(asked["shards"])))
    from viewfold.jobs.recipes import find

    shards = find(config.recipe, config.settings).data.shards
    return Look({"fingerprint": mark, "shards": list(shards)}, shard_stamps(shards))


def settled(before: Sequence[Night]) -> Night | None:
    """The newest night that came to a judgement."""
    return next((night for night in before if night.outcome in SETTLED), None)


def refused_for(night: Night, since: object) -> bool:
    """Whether the night was begun for drift and refused, and the queries `since` (ISO 8601) are in part from before."""
    if night.outcome != "refused" or not night.facts["forced"]:
        return False
    return since is None or datetime.fromisoformat(str(since)) <= datetime.fromisoformat(night.facts["ended"])


def unfinished(before: Sequence[Night]) -> Night | None:
    """The newest night, if it was cut."""
    return before[0] if before and before[0].outcome is None else None


def seen_by(run: Path | None, stamps: Mapping[str, str]) -> list[str]:
    """Which of the shards, as they are now, the run in this folder has seen; none where that is not known."""
    from viewfold.pipeline.stage import read_record

    record = None if run is None else read_record(run / "data")
    if record is None:
        return []
    return [location for location, stamp in stamps.items() if record.inputs.get(location) == stamp]


def recipe_mark(config: NightlyConfig) -> str:
    """Changes when the recipe may come to other shards."""
    file = Path(config.recipe)
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else config.recipe
    return fingerprint(text, config.settings, __version__)
