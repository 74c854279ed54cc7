"""The phases of a night, each done once: a night that was cut goes on with the one it was in."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from viewfold.errors import InvalidInput
from viewfold.jobs.gates import judge
from viewfold.jobs.nightly_calibrate import calibrate_like, calibration_of
from viewfold.jobs.nightly_canary import asked_here, complaint, keep_canaries, read_canaries
from viewfold.jobs.nightly_config import NightlyConfig
from viewfold.jobs.nightly_lease import Lease
from viewfold.jobs.nightly_night import Night, Outcome, nights
from viewfold.jobs.nightly_prune import prune
from viewfold.jobs.nightly_recipe import night_run
from viewfold.jobs.nightly_result import tell_result
from viewfold.jobs.nightly_service import ABSENT, asked_there, serves, tell
from viewfold.jobs.promotion import ROLLED_BACK, not_servable, promote, roll_back
from viewfold.jobs.registry import CHAMPION, Registry, VersionFacts
from viewfold.jobs.run import run_recipe
from viewfold.jobs.run_folder import Run
from viewfold.retrieval import ServiceError

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Work:
    """A night and all that its phases need."""

    config: NightlyConfig
    home: Path
    night: Night
    registry: Registry
    lease: Lease
    say: Callable[[str], object]

    def phase(self, name: str, make: Callable[["Work"], Facts]) -> Facts:
        """What the phase found, now or before it was cut."""
        found = self.night.phase(name)
        if found is not None:
            return found
        self.lease.require()
        made = self.night.keep(name, make(self))
        self.say(f"{name}: {made['line']}")
        return made

    @property
    def uri(self) -> str:
        """The version that this night made, by its number."""
        return f"models:/{self.config.name}/{self.night.version}"

    def version(self) -> VersionFacts:
        """The version that this night made, as the registry has it now."""
        return self.registry.facts(self.uri)


def carry_out(work: Work) -> Outcome:
    """Do what is left of the night, down to its result."""
    work.phase("run", _run)
    outcome, reason = _decided(work)
    work.phase("prune", _prune)
    work.phase("result", lambda work: {"line": reason, **tell_result(work.config, work.night, outcome, reason)})
    work.night.end(outcome, reason)
    return outcome


def _decided(work: Work) -> tuple[Outcome, str]:
    """How the night ends, and why in one line."""
    version = work.night.version
    failure = _calibrated(work)
    if failure:
        return "refused", f"version {version} is no champion: {failure}"
    gates = _judged(work)
    if not gates["passed"]:
        return "refused", f"version {version} is no champion: {gates['reason']}"
    work.phase("promote", _promote)
    work.phase("tell", _tell)
    failure = work.phase("check", _check)["failure"]
    if failure:
        back = work.phase("roll_back", _roll_back)
        return "rolled back", f"version {version} was champion and is no more: {failure}; {back['line']}"
    return "promoted", f"version {version} is champion: {gates['reason']}"


def _run(work: Work) -> Facts:
    facts = work.night.facts
    config = night_run(work.config, champion=facts["champion"], replay=facts["replay"])
    records = run_recipe(config, work.night.run, home=work.home)
    run = Run(config, work.night.run, work.home, ExitStack())
    keep_canaries(run, work.night.folder / "canaries", images=work.config.canary.images)
    version = str(records["register"].result["version"])
    return {"version": version, "line": f"version {version} of {work.config.name} registered as challenger"}


def _calibrated(work: Work) -> str:
    """Why the new bundle has no calibration where the champion's has one, which requests may ask for; else empty."""
    champion = work.registry.find(work.config.name, CHAMPION)
    file = None if champion is None else calibration_of(champion)
    if champion is None or file is None or champion.version == work.night.version:
        return ""
    return str(work.phase("calibrate", lambda work: _calibrate(work, file, champion))["failure"])


def _calibrate(work: Work, file: Path, champion: VersionFacts) -> Facts:
    version = work.version()
    try:
        line = calibrate_like(file, champion, version)
    except InvalidInput as error:
        failure = (
            f"the champion's index is calibrated, and this one cannot be ({error}); mend that and `viewfold promote "
            f"{version.name}`, or remove {file} where no request asks for min_p_match"
        )
        work.registry.tag(version.name, version.version, {"validation_status": "failed", "validation": failure})
        return {"failure": failure, "line": failure}
    return {"failure": "", "line": line}


def _judged(work: Work) -> Facts:
    """The verdict, against the version that is champion when it is acted upon."""
    gates = work.phase("gates", _gates)
    if work.night.phase("promote") is not None:
        return gates
    champion = work.registry.find(work.config.name, CHAMPION)
    standing = None if champion is None else champion.version
    # Its own version is there already where a promotion was cut.
    if standing in (gates["champion"], work.night.version):
        return gates
    work.say(f"gates: version {standing} was made champion meanwhile; judged anew, against that")
    work.night.forget("gates")
    return work.phase("gates", _gates)


def _gates(work: Work) -> Facts:
    champion = work.registry.find(work.config.name, CHAMPION)
    verdict = judge(
        work.registry,
        work.config.gates,
        challenger=work.version(),
        champion=champion,
        home=work.home,
        out=work.night.folder / "gates",
    )
    work.say(verdict.table())
    return {
        "passed": verdict.passed,
        "reason": verdict.reason,
        "champion": None if champion is None else champion.version,
        "verdict": verdict.to_dict(),
        "line": verdict.reason,
    }


def _promote(work: Work) -> Facts:
    promote(work.registry, work.version(), now=_now())
    return {"line": f"{CHAMPION} is version {work.night.version}"}


def _before(work: Work) -> str | None:
    """The version that was champion before this night's."""
    gates = work.night.phase("gates")
    assert gates is not None, "nothing is promoted that was not judged"
    before: str | None = gates["champion"]
    return before


def _tell(work: Work) -> Facts:
    target = work.config.service
    if target is None:
        return {"failure": "", "code": "", "line": "no service is named"}
    try:
        tell(target)
    except ServiceError as error:
        return {"failure": f"{target.url}: {error}", "code": error.code, "line": f"{target.url}: {error}"}
    return {"failure": "", "code": "", "line": f"{target.url} opened its source anew"}


def _check(work: Work) -> Facts:
    told = work.night.phase("tell") or {}
    try:
        # A service of this name cannot have been started before there was a champion.
        if work.config.service is None or (told["code"] in ABSENT and _before(work) is None):
            failure, precision = _checked_here(work)
        elif told["failure"]:
            failure, precision = told["failure"], None
        else:
            failure, precision = _checked_there(work)
    except Exception as error:  # whatever it is, a champion that cannot be checked does not stay
        why = " ".join(str(error).split()) or type(error).__name__
        failure, precision = f"the canaries cannot be asked: {why}", None
    line = failure or f"{precision:.0%} of the demonstrations for the canaries carry their label"
    return {"failure": failure, "precision": precision, "line": line}


def _checked_here(work: Work) -> tuple[str, float | None]:
    canaries = read_canaries(work.night.folder / "canaries")
    answers = asked_here(work.uri, work.home, canaries, work.config.canary.k)
    tags = work.version().tags
    return complaint(
        canaries, answers, work.config.canary, encoder_id=tags["encoder_id"], bundle_id=tags["bundle_id"]
    )  # fmt: skip


def _checked_there(work: Work) -> tuple[str, float | None]:
    target, version = work.config.service, work.version()
    assert target is not None
    serves(target, version)
    canaries = read_canaries(work.night.folder / "canaries")
    answers = asked_there(target, version, canaries, work.config.canary.k)
    tags = version.tags
    return complaint(
        canaries, answers, work.config.canary, encoder_id=tags["encoder_id"], bundle_id=tags["bundle_id"]
    )  # fmt: skip


def _roll_back(work: Work) -> Facts:
    name, before = work.config.name, _before(work)
    reason = str((work.night.phase("check") or {})["failure"])
    champion = work.registry.find(name, CHAMPION)
    standing = None if champion is None else champion.version
    if standing not in (work.night.version, before):
        return {"line": f"meanwhile {'nothing' if standing is None else f'version {standing}'} was made champion"}
    lost = "" if before in (None, standing) else _lost(work, str(before))
    if before is not None and not lost:
        roll_back(work.registry, name, reason=reason, now=_now(), to=before)
        return {"line": f"version {before} is champion again{_told_back(work, before)}"}
    if standing is not None:
        work.registry.tag(name, standing, {"validation_status": ROLLED_BACK, "validation": reason})
        work.registry.drop(name, CHAMPION)
    return {"line": f"there is no champion, for {lost}" if lost else "there is no champion, as before"}


def _lost(work: Work, version: str) -> str:
    """Why there is no way back to `version`; empty where there is one."""
    found = [one for one in work.registry.versions(work.config.name) if one.version == version]
    return not_servable(found[0]) if found else f"version {version} is gone from the registry"


def _told_back(work: Work, before: str) -> str:
    target = work.config.service
    if target is None:
        return ""
    try:
        tell(target)
        serves(target, work.registry.facts(f"models:/{work.config.name}/{before}"))
    except ServiceError as error:
        return f", but the service does not say that it serves it: {error}"
    return ", and the service serves it"


def _prune(work: Work) -> Facts:
    done = prune(work.config, work.registry, nights(work.night.folder.parent), work.night)
    line = done["skipped"] or f"{len(done['removed'])} folders removed"
    return {**done, "line": "; ".join([line, *(f"not removed: {why}" for why in done["stuck"])])}


def _now() -> datetime:
    return datetime.now(UTC)
