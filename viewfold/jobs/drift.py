"""Whether what is asked of a service has drifted from its index, by thresholds; and the figures as a table."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from viewfold.config import Config, check_ranges
from viewfold.retrieval import Client, Drift

NUMBERS = (
    *("pair", "queries", "since", "left_out", "psi", "psi_chance", "ks", "ks_chance"),
    *("domain_psi", "domain_psi_chance", "median", "reference_median"),
)
"""Fields of `Drift` that are one number or word; the others are histograms."""
_DOMAINS = 12
"""Rows of the table."""


@dataclass(frozen=True, kw_only=True)
class DriftConfig(Config):
    """When queries count as drifted: a figure must exceed its threshold, and what chance makes of so few queries."""

    psi: float = 0.25
    """Threshold for PSI between the cosines of queries and of the index's own images to their nearest."""
    ks: float = 0.2
    """Threshold for KS between the same."""
    domain_psi: float | None = 0.25
    """Threshold for PSI between the domains of the nearest images and those of the index; None where queries are not
    expected to come from the domains in the shares that the index has."""
    min_queries: int = 500
    """With fewer nothing is said; a service compares its latest 2000."""
    action: Literal["advise", "force"] = "advise"
    """What drift means to a night without new data: `advise` says so, `force` trains all the same."""

    def __post_init__(self) -> None:
        check_ranges(self, psi=(0, 100), ks=(0, 1), min_queries=(1, 2000))
        if self.domain_psi is not None:
            check_ranges(self, domain_psi=(0, 100))


@dataclass(frozen=True)
class DriftVerdict:
    """What was found."""

    drifted: bool
    """Whether any figure is beyond its threshold and beyond chance."""
    enough: bool
    """Whether there were queries enough to say so, and a reference to hold them against."""
    sentence: str
    """For people: figures, thresholds, queries."""
    numbers: dict[str, float | int | str | None]
    """`NUMBERS` of the `Drift`, for a record."""


@dataclass(frozen=True)
class _Figure:
    """One comparison of a `Drift` with its threshold."""

    name: str
    found: float
    chance: float
    threshold: float

    @property
    def beyond(self) -> bool:
        return self.found > max(self.threshold, self.chance)


def drift_of(url: str, key: str | None = None) -> Drift:
    """What the service at `url` says of its queries, `key` being one of its keys; raises as `judge_drift` does."""
    with Client(url, key=key) as client:
        return client.drift()


def judge_drift(client: Client, config: DriftConfig) -> DriftVerdict:
    """Ask a service how far its queries have drifted, and judge it.

    Raises:
        ServiceError: the service does not answer, or is of a version that does not count drift.
    """
    return judged(client.drift(), config)


def judged(drift: Drift, config: DriftConfig) -> DriftVerdict:
    """`judge_drift` of what a service said."""
    figures = list(_figures(drift, config))
    enough = drift.queries >= config.min_queries and bool(figures)
    beyond = [figure for figure in figures if figure.beyond] if enough else []
    numbers = {name: getattr(drift, name) for name in NUMBERS}
    return DriftVerdict(bool(beyond), enough, _sentence(drift, config, figures, beyond), numbers)


def table(drift: Drift, config: DriftConfig) -> str:
    """The figures beside their thresholds, the domains beside the index's, and the verdict."""
    verdict = judged(drift, config)
    shares = _shares(drift)
    wide = max([len("median cosine"), *(len(name) for name, _, _ in shares)])
    lines = [f"{'':{wide}} {'found':>10} {'chance':>10} {'threshold':>10}"]
    for figure in _figures(drift, config):
        mark = "  drift" if verdict.enough and figure.beyond else ""
        lines.append(f"{figure.name:{wide}} {figure.found:10.4f} {figure.chance:10.4f} {figure.threshold:10.4f}{mark}")
    lines += ["", f"{'':{wide}} {'queries':>10} {'index':>10}"]
    lines.append(f"{'median cosine':{wide}} {_number(drift.median):>10} {_number(drift.reference_median):>10}")
    lines += [f"{name:{wide}} {asked:10.1%} {own:10.1%}" for name, asked, own in shares]
    return "\n".join([*lines, "", verdict.sentence])


def _figures(drift: Drift, config: DriftConfig) -> Iterator[_Figure]:
    if drift.psi is not None and drift.psi_chance is not None:
        yield _Figure("cosine PSI", drift.psi, drift.psi_chance, config.psi)
    if drift.ks is not None and drift.ks_chance is not None:
        yield _Figure("cosine KS", drift.ks, drift.ks_chance, config.ks)
    if drift.domain_psi is not None and drift.domain_psi_chance is not None and config.domain_psi is not None:
        yield _Figure("domain PSI", drift.domain_psi, drift.domain_psi_chance, config.domain_psi)


def _sentence(drift: Drift, config: DriftConfig, figures: list[_Figure], beyond: list[_Figure]) -> str:
    of = f"{drift.queries} queries" + (f" since {drift.since}" if drift.since else "")
    left = f"; {drift.left_out} more were filtered or drawn at random" if drift.left_out else ""
    if drift.queries < config.min_queries:
        return f"too few to tell: {of}{left}, min_queries is {config.min_queries}"
    if not figures:
        return f"nothing to tell by: the index holds no reference for drift; {of}{left}"
    shown = ", ".join(f"{one.name} {one.found:.3f} ({_limit(one)})" for one in beyond or figures)
    medians = f"median cosine {_number(drift.median)}, the index's own {_number(drift.reference_median)}"
    return f"{'drift' if beyond else 'no drift'}: {shown}; {medians}; {of}{left}"


def _limit(figure: _Figure) -> str:
    if figure.chance > figure.threshold:
        return f"chance makes up to {figure.chance:.3g}"
    return f"threshold {figure.threshold:g}"


def _shares(drift: Drift) -> list[tuple[str, float, float]]:
    """The domains with the largest shares of the queries or the index, with both; none where there is but one."""
    names = drift.reference_domains.keys() | drift.domains.keys()
    asked, own = sum(drift.domains.values()) or 1, sum(drift.reference_domains.values()) or 1
    found = [(name, drift.domains.get(name, 0) / asked, drift.reference_domains.get(name, 0) / own) for name in names]
    found.sort(key=lambda row: (-max(row[1:]), row[0]))
    shown = found[:_DOMAINS] if len(found) > 1 else []
    return [(name or "(no domain)", asks, owns) for name, asks, owns in shown]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
