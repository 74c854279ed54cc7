"""What a card lets one claim: which intervals lie apart from chance, the untrained network and another encoder."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from viewfold.jobs.card_plots import Estimate, decimals
from viewfold.jobs.card_words import BREAKS, IGNORES, PARTS, tell

Measured = Mapping[str, Any]
"""A measure as plain data."""
Tables = Mapping[str, Mapping[str, Measured]]
"""Encoder (a key of `MARKS`) to name to measure."""

IGNORED_RATIO = 0.1
"""A change that moves features by less than this share of the way to another image counts as ignored."""


def headline(tables: Tables) -> str:
    """One or two sentences: what lies clear of chance and of the untrained network, then where the encoder is weak."""
    trained = tables.get("trained", {})
    rivals = "chance and the untrained network" if "untrained" in tables else "chance"
    other = _titles(name for name in _taught(trained) if _learned(tables, name))
    if clauses := _ignored(tables) + _followed(tables):
        first = "; ".join(clauses)
    elif other:
        first = f"better than {rivals} only in {_joined(other, 3)}"
    elif any(m["low"] is not None for m in trained.values()):
        first = f"nothing was learned that these measures can show: no interval lies on the good side of {rivals}"
    else:
        first = "no interval was measured, so nothing can be claimed" if trained else "nothing was measured"
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in (first, "; ".join(_weak(tables))) if text)


def beside(tables: Tables) -> str:
    """Where the intervals of the encoder and of the one it is compared with lie apart; empty without the other."""
    if not {"trained", "against"} <= set(tables):
        return ""
    verdicts = {
        n: _verdict(tables, n, "trained", "against") for n in major(tables["trained"]) if n in tables["against"]
    }
    told = []
    for word, side in (("ahead", 1), ("behind", -1)):
        if names := _titles(name for name, verdict in verdicts.items() if verdict == side):
            told.append(f"{word} in {_joined(names, 4)}")
    told.append(f"no clear difference in {list(verdicts.values()).count(0)} of {len(verdicts)} measures")
    return f"Beside the other encoder: {'; '.join(told)}."


def _ignored(tables: Tables) -> list[str]:
    ignored: list[str] = []
    resisted: list[str] = []
    for name in tables.get("trained", {}):
        own = comparable(tables, "trained", name)
        if name.startswith("invariant/curve/") and own and own.high is not None and _learned(tables, name):
            (ignored if own.high <= IGNORED_RATIO else resisted).append(tell(name).title)
    rival = "the untrained network" if "untrained" in tables else "from image to image"
    return [
        *([f"ignores {_joined(ignored, 8)}"] if ignored else []),
        *([f"moves less than {rival} under {_joined(resisted, 8)}"] if resisted else []),
    ]


def _followed(tables: Tables) -> list[str]:
    learned = [name for name in tables.get("trained", {}) if _learned(tables, name)]
    relations = [found[1] for name in learned if (found := re.fullmatch(r"equivariant/(\w+)/r2", name))]
    clauses = [f"follows {_joined(relations, 8)}"] if relations else []
    if any(name.endswith("/retrieval/mrr") and "fitted" not in name for name in learned):
        clauses.append("its predictor finds the view asked for")
    accuracies = [name for name in learned if tell(name).part and re.search("(knn[0-9]+|linear)/top1$", name)]
    if accuracies:
        name = min(accuracies, key=lambda one: PARTS.index(tell(one).part))
        untrained = tables.get("untrained", {}).get(name)
        rivals = [f"untrained {decimals(untrained['value'])}"] if untrained else []
        rivals.append(f"chance {decimals(tables['trained'][name]['chance'])}")
        own = decimals(tables["trained"][name]["value"])
        clauses.append(f"tells classes apart ({tell(name).title} {own}, {', '.join(rivals)})")
    return clauses


def _weak(tables: Tables) -> list[str]:
    trained = tables.get("trained", {})
    weak = []
    stay = estimate(trained.get("invariant/shift/consistency"))
    if stay and stay.low is not None and stay.high is not None:
        changed, least, most = (f"{100 * (1 - share):z.1f}" for share in (stay.value, stay.high, stay.low))
        weak.append(f"a one-pixel shift changes {changed} % of its answers (95 % interval {least} to {most} %)")
    behind = [name for name in _taught(trained) if _verdict(tables, name, "trained", "untrained") < 0]
    kept = [found[1] for name in behind if (found := re.fullmatch(r"invariant/(\w+)/r2", name))]
    if kept:
        weak.append(f"its invariant part keeps more of the {_joined(kept, 8)} than that of the untrained network")
    if lost := _titles(name for name in behind if tell(name).section != IGNORES or "/curve/" in name):
        weak.append(f"behind the untrained network in {_joined(lost, 3)}")
    return weak


def major(names: Iterable[str]) -> list[str]:
    """The measures that have a good side and are no variant of another."""
    return [n for n in names if tell(n).better and not n.endswith(("_balanced", "_official"))]


def _taught(names: Iterable[str]) -> list[str]:
    """The major measures without those of robustness, which features that tell nothing apart win."""
    return [name for name in major(names) if tell(name).section != BREAKS]


def _titles(names: Iterable[str]) -> list[str]:
    told = map(tell, names)
    return [f"{one.title} ({one.part})" if one.part else one.title for one in told]


def _joined(words: Sequence[str], most: int) -> str:
    shown = [*words[:most], f"{len(words) - most} more"] if len(words) > most else words
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


def estimate(measure: Measured | None) -> Estimate | None:
    return Estimate.of(measure["value"], measure["low"], measure["high"]) if measure else None


def chance_of(measure: Measured) -> Estimate | None:
    return Estimate.of(*[measure["chance"]] * 3)


def level(tables: Tables, role: str, name: str) -> Estimate | None:
    """Chance on the scale of `_comparable`."""
    blind = chance_of(tables[role][name])
    return Estimate(1.0, 1.0, 1.0) if blind and blind.value and tell(name).relative else blind


def comparable(tables: Tables, role: str, name: str) -> Estimate | None:
    """The measure on a scale that is the same for all encoders: a drift as a share of that to another image."""
    measure = tables.get(role, {}).get(name)
    found, chance = estimate(measure), chance_of(measure) if measure else None
    return found.over(chance.value) if found and chance and chance.value and tell(name).relative else found


def apart(own: Estimate | None, other: Estimate | None) -> int:
    """1 or -1 where the interval of `own` lies wholly above or below that of `other`, 0 where they meet or lack."""
    if own is None or other is None or own.low is None or own.high is None or other.low is None or other.high is None:
        return 0
    return int(own.low > other.high) - int(own.high < other.low)


def _verdict(tables: Tables, name: str, one: str, other: str) -> int:
    """1 where `one` is clearly better than `other`, -1 where it is clearly worse."""
    return tell(name).better * apart(comparable(tables, one, name), comparable(tables, other, name))


def _learned(tables: Tables, name: str) -> bool:
    """Whether the interval lies on the good side of chance, and of the untrained network's where that was measured."""
    if tell(name).better * apart(comparable(tables, "trained", name), level(tables, "trained", name)) < 1:
        return False
    return name not in tables.get("untrained", {}) or _verdict(tables, name, "trained", "untrained") > 0
