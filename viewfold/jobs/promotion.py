"""Who is champion: the alias moves in one call, and the tags around it say since when and in whose place.

Every step may be the last before a crash: what is written first is true whether or not the alias then moves, and to do
it all once more changes nothing.
"""

from datetime import UTC, datetime

from viewfold.errors import InvalidInput
from viewfold.jobs.registry import CHALLENGER, CHAMPION, Registry, VersionFacts
from viewfold.jobs.version_index import index_facts

ROLLED_BACK = "rolled back"
"""The `validation_status` of a version that was champion and failed."""


def promote(registry: Registry, version: VersionFacts, *, now: datetime) -> None:
    """Make `version` the champion; repeating it is harmless.

    Raises:
        InvalidInput: there is no such version, or the server does not answer.
    """
    name, new = version.name, registry.facts(f"models:/{version.name}/{version.version}")
    old = registry.find(name, CHAMPION)
    since = _stamp(now)
    if old is None or old.version != new.version:
        tags = {"champion_since": since, "champion_until": "", "restored_from": ""}
        registry.tag(name, new.version, tags if old is None else {**tags, "replaces": old.version})
        registry.point(name, CHAMPION, new.version)
    elif "replaces" in new.tags:  # a call that was cut here has left the last tag to this one
        since = new.tags["champion_since"]
        old = registry.facts(f"models:/{name}/{new.tags['replaces']}")
    else:
        return
    if old is not None and not old.tags.get("champion_until"):
        registry.tag(name, old.version, {"champion_until": since})


def roll_back(registry: Registry, name: str, *, reason: str, now: datetime, to: str | None = None) -> VersionFacts:
    """Make the version `to` the champion again, or else the one that the champion replaced; returns it.

    The one that leaves is tagged with `reason`, and is no challenger any more. Without `to`, a champion that was itself
    put back stays: to call twice does not go back twice.

    Raises:
        InvalidInput: there is no champion or none before it, that one cannot be served, or the server does not answer.
    """
    leaving = registry.find(name, CHAMPION)
    if leaving is None:
        raise InvalidInput(f"{name}: no version has the alias {CHAMPION}, so there is nothing to roll back")
    if to == leaving.version or (to is None and leaving.tags.get("restored_from")):
        _withdraw(registry, name, leaving.tags.get("restored_from"))
        return leaving
    target = registry.facts(f"models:/{name}/{to or _before(leaving)}")
    if why := not_servable(target):
        raise InvalidInput(f"{why}; name another version with --to")
    since = _stamp(now)
    gone = {"validation_status": ROLLED_BACK, "validation": reason, "champion_until": since}
    registry.tag(name, leaving.version, gone)
    back = {"champion_since": since, "champion_until": "", "restored_from": leaving.version}
    registry.tag(name, target.version, back)
    registry.point(name, CHAMPION, target.version)
    _withdraw(registry, name, leaving.version)
    return registry.facts(f"models:/{name}/{target.version}")


def _before(champion: VersionFacts) -> str:
    if "replaces" not in champion.tags:
        raise InvalidInput(
            f"models:/{champion.name}/{champion.version} replaced no version; name the one to go back to with --to"
        )
    return champion.tags["replaces"]


def not_servable(version: VersionFacts) -> str:
    """Why `version` cannot be served, in one line: its index is gone, or another encoder's; empty where it can."""
    if "bundle" not in version.tags:
        return ""
    try:
        index_facts(version)
    except InvalidInput as reason:
        return f"models:/{version.name}/{version.version} cannot be served: {reason}"
    return ""


def _withdraw(registry: Registry, name: str, version: str | None) -> None:
    """A version that was rolled back is not to be judged again."""
    challenger = registry.find(name, CHALLENGER)
    if challenger is not None and challenger.version == version:
        registry.drop(name, CHALLENGER)


def _stamp(now: datetime) -> str:
    return now.astimezone(UTC).isoformat(timespec="seconds")
