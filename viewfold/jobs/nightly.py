"""The verb `nightly`: new data become a new champion, or a line that says why not. Made to be started unwatched.

It may be started at any time and killed at any point: the next start goes on where the last one was cut.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

from viewfold.errors import InvalidInput, ViewfoldError
from viewfold.jobs.nightly_config import NightlyConfig
from viewfold.jobs.nightly_lease import Lease
from viewfold.jobs.nightly_look import Look, look, refused_for, seen_by, settled, unfinished
from viewfold.jobs.nightly_night import Night, begin, nights

Say = Callable[[str], object]
FINE, NO_CHAMPION = 0, 1
"""Exit codes; that of bad input, and of a night that failed and will be gone on with, is 2."""


def nightly(config: NightlyConfig, *, home: Path, day: str = "", say: Say) -> int:
    """Do what there is to do for `day` (ISO 8601; today in UTC when empty), and `say` it in lines; the exit code.

    Raises:
        InvalidInput: no date, no such recipe or shards, a variable that is not set; and what the stages refuse.
        TrainingStopped: the training or, by another machine, the lease.
    """
    today = _date(day)
    folder = home / "nightly" / config.name
    lease = Lease(folder, config.lease_minutes)
    other = lease.take()
    if other is not None:
        say(f"nightly {config.name}: another one is at work ({other}); nothing done")
        return NO_CHAMPION
    with lease:
        return _tonight(config, home, today, lease, say)


def _tonight(config: NightlyConfig, home: Path, today: str, lease: Lease, say: Say) -> int:
    folder = home / "nightly" / config.name
    cut = unfinished(nights(folder))
    if cut is not None and (cut.phase("gates") or {"passed": False})["passed"]:
        # Its challenger may be champion already, unseen by the service and unchecked: first of all that is ended.
        code = _carry_out(config, home, cut, lease, say)
        if cut.facts["date"] == today:
            return code
        cut = None
    before = nights(folder)
    seen = look(config, before)
    if cut is not None and cut.facts["hash"] == seen.hash:
        return _carry_out(config, home, cut, lease, say)
    if cut is not None:
        say(f"night {cut.folder.name} was cut, and the shards are others now; it is given up")
        cut.end("abandoned", "it was cut, and the shards had changed when it was to go on")
    done = next(
        (night for night in before if night.folder.name == f"{today}-{seen.hash}" and _came_to_an_end(night)), None
    )
    last, forced = done or settled(before), ""
    if last is not None and last.facts["stamps"] == seen.stamps:
        forced = "" if done else _drift(config, home, last, say)
        if not forced:
            say(_nothing(config, last))
            return FINE
    return _carry_out(config, home, _begun(config, home, today, seen, forced), lease, say)


def _came_to_an_end(night: Night) -> bool:
    return night.outcome not in (None, "abandoned")


def _nothing(config: NightlyConfig, done: Night) -> str:
    shards = len(done.facts["stamps"])
    return (
        f"nightly {config.name}: nothing new; night {done.folder.name} has seen these {shards} shards and ended "
        f"{done.outcome}: {done.facts['reason']}"
    )


def _begun(config: NightlyConfig, home: Path, today: str, seen: Look, forced: str) -> Night:
    """A night on the disk; from here on it is fixed from which champion it begins."""
    from viewfold.jobs.nightly_recipe import night_run
    from viewfold.jobs.nightly_service import client_of
    from viewfold.jobs.registry import CHAMPION, Registry

    if config.service is not None:
        client_of(config.service).close()  # a key that is missing is found before hours are spent
    champion = Registry(home).find(config.name, CHAMPION)
    version, replay = None, list[str]()
    if champion is not None:
        version, run = champion.version, champion.tags.get("run_folder")
        replay = seen_by(None if run is None else Path(run), seen.stamps)
        replay = replay if len(replay) < len(seen.stamps) else []  # where nothing is new, all of it is learned from
    night_run(config, champion=version, replay=replay)  # refuses what cannot be made before a night is begun
    return begin(
        home / "nightly" / config.name / f"{today}-{seen.hash}",
        date=today,
        hash=seen.hash,
        asked=seen.asked,
        stamps=seen.stamps,
        champion=version,
        replay=replay,
        forced=forced,
    )


def _carry_out(config: NightlyConfig, home: Path, night: Night, lease: Lease, say: Say) -> int:
    from viewfold.jobs.nightly_phases import Work, carry_out
    from viewfold.jobs.nightly_result import keep_traceback, tell_result
    from viewfold.jobs.registry import Registry

    say(f"night {night.folder.name}: {_intent(night)}")
    try:
        outcome = carry_out(Work(config, home, night, Registry(home), lease, say))
    except Exception as error:  # of memory, of a store: whatever it is, somebody waits to hear of it
        reason = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, ViewfoldError | OSError):
            reason = f"{type(error).__name__}: {reason}; where it came from is in {keep_traceback(night, error)}"
        tell_result(config, night, "failed", reason)
        if isinstance(error, ViewfoldError | OSError):
            raise
        raise ViewfoldError(reason) from error
    say(f"nightly {config.name}: {outcome}: {night.facts['reason']}")
    return FINE if outcome == "promoted" else NO_CHAMPION


def _intent(night: Night) -> str:
    facts = night.facts
    if facts["phases"]:
        return f"goes on after {list(facts['phases'])[-1]}"
    if facts["champion"] is None:
        return f"{len(facts['stamps'])} shards, and no champion to begin from: the recipe from its beginning"
    new = len(facts["stamps"]) - len(facts["replay"]) if facts["replay"] else len(facts["stamps"])
    return f"{new} of {len(facts['stamps'])} shards to learn from anew, beginning from version {facts['champion']}"


def _drift(config: NightlyConfig, home: Path, last: Night, say: Say) -> str:
    """What the queries of the service say for a night without new data; the empty text where they say nothing.

    `last` is the newest night that was judged. A training is not repeated for the queries that it was refused after.
    """
    if config.drift is None or config.service is None:
        return ""
    from viewfold.jobs.drift import judge_drift
    from viewfold.jobs.nightly_service import client_of
    from viewfold.retrieval import ServiceError

    try:
        with client_of(config.service) as client:
            verdict = judge_drift(client, config.drift)
    except ServiceError as error:
        say(f"drift: not known, for the service does not answer: {error}")
        return ""
    say(f"drift: {verdict.sentence}")
    if not verdict.drifted:
        return ""
    if config.drift.action == "advise":
        say("drift: a night without new data is advised; drift.action=force begins it")
        return ""
    if refused_for(last, verdict.numbers["since"]) and last.facts["champion"] == _champion(config, home):
        say(f"drift: night {last.folder.name} was for it and was refused; not again before all queries are newer")
        return ""
    return verdict.sentence


def _champion(config: NightlyConfig, home: Path) -> str | None:
    from viewfold.jobs.registry import CHAMPION, Registry

    found = Registry(home).find(config.name, CHAMPION)
    return None if found is None else found.version


def _date(day: str) -> str:
    if not day:
        return datetime.now(UTC).date().isoformat()
    try:
        return date.fromisoformat(day).isoformat()
    except ValueError:
        raise InvalidInput(f"--date {day}: no date; write it as 2026-11-30") from None
