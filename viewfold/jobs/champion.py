"""What the verbs `promote`, `rollback` and `history` do: the challenger judged and moved, and what is said about it."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from viewfold.config import load, override
from viewfold.errors import InvalidInput
from viewfold.jobs.gates_config import GatesConfig
from viewfold.jobs.history import as_data, table
from viewfold.jobs.promotion import promote, roll_back
from viewfold.jobs.registry import CHALLENGER, CHAMPION, Registry, VersionFacts
from viewfold.jobs.registry_server import server_uri, shown


def promote_challenger(
    name: str, settings: Sequence[str], *, gates: Path | None, home: Path, dry_run: bool, force: bool
) -> tuple[str, bool]:
    """Judge the challenger of a model and make it champion; returns what is said, and whether it passed or was forced.

    `gates` is a YAML file of `GatesConfig`. With `dry_run` nothing changes in the registry; with `force` the challenger
    is moved whatever the gates say, and its tags say so.

    Raises:
        InvalidInput: there is no challenger, it cannot be judged, or somebody moved `champion` meanwhile.
    """
    config = override(GatesConfig(), settings) if gates is None else load(GatesConfig, gates, settings)
    registry = _standing(home)
    challenger, champion = registry.find(name, CHALLENGER), registry.find(name, CHAMPION)
    if challenger is None:
        raise InvalidInput(
            f"{name}: no version has the alias {CHALLENGER}; register one by a run with alias={CHALLENGER}"
        )
    if champion is not None and champion.version == challenger.version:
        if not dry_run:
            promote(registry, challenger, now=datetime.now(UTC))  # the last tag of a promotion that was cut
        return f"{name} version {challenger.version} is {CHAMPION} already", True
    from viewfold.jobs.gates import judge, weigh  # brings torch

    out = home / "gates" / name / challenger.version
    look = weigh if dry_run else judge
    verdict = look(registry, config, challenger=challenger, champion=champion, home=home, out=out)
    what = f"{name} version {challenger.version}"
    if dry_run:
        return f"{verdict.table()}\n{what} would {'' if verdict.passed else 'not '}become {CHAMPION}", verdict.passed
    if not verdict.passed and not force:
        stays = f"version {champion.version} stays" if champion else "there is none"
        return f"{verdict.table()}\n{what} does not become {CHAMPION}; {stays}", False
    _require_champion(registry, name, champion)
    if not verdict.passed:
        registry.tag(name, challenger.version, {"validation": f"promoted by force, against: {verdict.reason}"})
    promote(registry, challenger, now=datetime.now(UTC))
    forced = "" if verdict.passed else ", by force"
    before = f" in place of version {champion.version}" if champion else ""
    return f"{verdict.table()}\n{what} is {CHAMPION}{before}{forced}", True


def _standing(home: Path) -> Registry:
    """The registry that is there: these verbs would make an empty one where a path was mistyped."""
    store = home.resolve() / "mlflow.db"
    if server_uri(home.resolve()) == f"sqlite:///{store}" and not store.is_file():
        raise InvalidInput(
            f"{home}: no registry here (no mlflow.db); name its folder with --home, or its server with "
            "MLFLOW_TRACKING_URI"
        )
    return Registry(home)


def _require_champion(registry: Registry, name: str, judged: VersionFacts | None) -> None:
    """The gates take minutes; what was made champion meanwhile has not been held against the challenger."""
    standing = registry.find(name, CHAMPION)
    now, before = (None if one is None else one.version for one in (standing, judged))
    if now != before:
        what = "no version is" if now is None else f"version {now} was made"
        raise InvalidInput(f"{name}: {what} {CHAMPION} while the gates measured; run promote again")


def roll_back_to(name: str, *, to: str | None, reason: str, home: Path) -> str:
    """Put the champion before this one back, or the version `to`; returns what is said about it."""
    registry = _standing(home)
    before = registry.find(name, CHAMPION)
    now = roll_back(registry, name, reason=reason, now=datetime.now(UTC), to=to)
    if before is not None and before.version == now.version:
        put_back = now.tags.get("restored_from")
        why = f", put back in place of version {put_back}; --to goes further back" if put_back and to is None else ""
        return f"{name} version {now.version} is {CHAMPION} already{why}"
    left = f" in place of version {before.version}" if before else ""
    return f"{name} version {now.version} is {CHAMPION} again{left}"


def history_of(name: str, *, home: Path, as_json: bool) -> str:
    """The versions of a model, the newest first, as a table or as JSON.

    Raises:
        InvalidInput: the registry knows no such model.
    """
    registry = _standing(home)
    versions = registry.versions(name)
    if not versions:
        raise InvalidInput(f"{name}: not a model of {shown(registry.uri)}; a run registers one with register_as={name}")
    return json.dumps(as_data(versions), indent=2) if as_json else table(versions)
