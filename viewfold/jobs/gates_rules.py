"""When a gate passes: pure rules on two measures of the same queries, or on the facts of two bundles."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from viewfold.jobs.gates_config import GateConfig, LatencyGateConfig, RankGateConfig, RecallGateConfig
from viewfold.jobs.gates_verdict import Difference, GateRow
from viewfold.ssl.evaluate import Measure, difference


@dataclass(frozen=True)
class Missing:
    """A measure that could not be taken."""

    reason: str
    broken: bool = False
    """Whether that is the encoder's own fault, such as features that are not finite."""


Found = Measure | Missing


def encoder_row(
    gate: str,
    queries: str,
    config: GateConfig | RankGateConfig,
    *,
    challenger: Found,
    champion: Found | None,
    floor: bool,
) -> GateRow:
    """One measure of both encoders against its limits; `floor`: whether `at_least` holds for these queries."""
    at_least = config.at_least if floor else None
    compared = champion if config.may_fall is not None and isinstance(champion, Measure) else None
    limit = _words(config, at_least, compared is not None)
    if isinstance(challenger, Missing):
        before = None if compared is None else compared.value
        return _missing(gate, queries, challenger, before, required=config.required, limit=limit)
    problems, apart = [], None
    if at_least is not None and challenger.value < at_least:
        problems.append(f"{challenger.value:.3f} is below {at_least:g}")
    if compared is not None and config.may_fall is not None:
        allowed = config.may_fall
        if isinstance(config, RankGateConfig):
            allowed *= compared.value
        own = difference(challenger.interval, compared.interval)
        apart = Difference(own.value, own.low, own.high)
        problems += _fall(apart, allowed, challenger.n)
    alone = isinstance(champion, Missing) and at_least is None
    return GateRow(
        gate=gate,
        queries=queries,
        champion=champion.value if isinstance(champion, Measure) else None,
        challenger=challenger.value,
        difference=apart,
        limit=limit,
        verdict="failed" if problems else "skipped" if alone else "passed",
        reason=f"of the champion: {champion.reason}" if isinstance(champion, Missing) else "; ".join(problems),
    )


def _fall(apart: Difference, allowed: float, n: int) -> list[str]:
    if apart.value < -allowed:
        return [f"{-apart.value:.3f} below the champion, {allowed:.3f} allowed"]
    if apart.low is not None and apart.low < -allowed:
        return [f"{n} queries cannot rule out a fall by {-apart.low:.3f}, {allowed:.3f} allowed"]
    return []


def _words(config: GateConfig | RankGateConfig, at_least: float | None, compared: bool) -> str:
    words = [] if at_least is None else [f"at least {at_least:g}"]
    if compared and config.may_fall is not None:
        share = isinstance(config, RankGateConfig)
        words.append(f"falls by at most {f'{100 * config.may_fall:g} %' if share else f'{config.may_fall:g}'}")
    return ", ".join(words)


def _missing(gate: str, queries: str, found: Missing, champion: float | None, *, required: bool, limit: str) -> GateRow:
    """Skipped; failed where the gate is required, or where the champion can show what this encoder cannot."""
    lost = f"; the champion has {champion:.3f}" if champion is not None else ""
    failed = required or found.broken or champion is not None
    return GateRow(
        gate=gate,
        queries=queries,
        champion=champion,
        challenger=None,
        difference=None,
        limit=limit,
        verdict="failed" if failed else "skipped",
        reason=f"{found.reason}{lost}",
    )


Facts = Mapping[str, Any] | Missing
"""`bundle.json`."""


def recall_row(config: RecallGateConfig, challenger: Facts, champion: Facts | None) -> GateRow:
    """Recall of the challenger's index, which there must be where the champion has one."""
    limit, before = f"at least {config.at_least:g}", _fact(champion, "recall_at_10")
    if isinstance(challenger, Missing):
        return _missing("bundle_recall", "index", challenger, before, required=config.required, limit=limit)
    own = float(challenger["recall_at_10"])
    problems = [f"{own:.3f} is below {config.at_least:g}"] if own < config.at_least else []
    return _index_row("bundle_recall", own, before, limit, problems)


def latency_row(config: LatencyGateConfig, challenger: Facts, champion: Facts | None) -> GateRow:
    """Latency of the challenger's index, by itself and beside the champion's."""
    before = _fact(champion, "latency_ms")
    limits = [] if config.at_most is None else [(config.at_most, f"at most {config.at_most:g} ms")]
    if config.may_grow is not None and before is not None:
        limits.append((config.may_grow * before, f"at most {config.may_grow:g} times the champion's"))
    limit = ", ".join(words for _, words in limits)
    if isinstance(challenger, Missing):
        return _missing("bundle_latency_ms", "index", challenger, before, required=config.required, limit=limit)
    own = float(challenger["latency_ms"])
    problems = [f"{own:.3f} ms, {most:.3f} allowed" for most, _ in limits if own > most]
    return _index_row("bundle_latency_ms", own, before, limit, problems)


def _fact(facts: Facts | None, name: str) -> float | None:
    return None if facts is None or isinstance(facts, Missing) else float(facts[name])


def _index_row(gate: str, own: float, before: float | None, limit: str, problems: list[str]) -> GateRow:
    return GateRow(
        gate=gate,
        queries="index",
        champion=before,
        challenger=own,
        difference=None if before is None else Difference(own - before, None, None),
        limit=limit,
        verdict="failed" if problems else "passed",
        reason="; ".join(problems),
    )
