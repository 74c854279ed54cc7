"""When queries count as drifted, and what the verb says of a service."""

import dataclasses
import json
from pathlib import Path

import pytest
from served import backend, built, picture, serving

from viewfold.cli import main
from viewfold.jobs.drift import DriftConfig, judge_drift, judged, table
from viewfold.retrieval import Client, Drift
from viewfold.retrieval.index.bundle import ScoreHistogram

BINS = ScoreHistogram(low=-1.0, high=1.0, counts=[0, 0])
CALM = Drift(
    pair="0011223344556677",
    queries=800,
    since="2026-03-01T02:10:44+00:00",
    left_out=3,
    psi=0.1,
    psi_chance=0.12,
    ks=0.05,
    ks_chance=0.11,
    domain_psi=0.02,
    domain_psi_chance=0.03,
    median=0.815,
    reference_median=0.825,
    cosines=BINS,
    reference_cosines=BINS,
    domains={"paper": 600, "screen": 200},
    reference_domains={"paper": 50, "screen": 50},
)


def changed(**fields: float | None) -> Drift:
    return dataclasses.replace(CALM, **fields)  # type: ignore[arg-type]


def test_figures_below_their_thresholds_are_no_drift() -> None:
    found = judged(CALM, DriftConfig())
    assert (found.drifted, found.enough) == (False, True)
    assert found.sentence == (
        "no drift: cosine PSI 0.100 (threshold 0.25), cosine KS 0.050 (threshold 0.2), domain PSI 0.020 (threshold "
        "0.25); median cosine 0.815, the index's own 0.825; 800 queries since 2026-03-01T02:10:44+00:00; 3 more were "
        "filtered or drawn at random"
    )
    assert found.numbers["ks"] == 0.05
    assert json.dumps(found.numbers)


@pytest.mark.parametrize(
    ("name", "said"), [("psi", "cosine PSI 0.400"), ("ks", "cosine KS 0.400"), ("domain_psi", "domain PSI 0.400")]
)
def test_one_figure_beyond_its_threshold_is_drift_and_named_alone(name: str, said: str) -> None:
    found = judged(changed(**{name: 0.4}), DriftConfig())
    assert found.drifted
    assert found.sentence.startswith(f"drift: {said} (threshold 0.2")
    assert found.sentence.count("threshold") == 1


def test_what_chance_alone_may_make_is_no_drift() -> None:
    found = judged(changed(ks=0.3, ks_chance=0.35), DriftConfig())
    assert not found.drifted
    assert "cosine KS 0.300 (chance makes up to 0.35)" in found.sentence


def test_too_few_queries_and_no_reference_say_nothing() -> None:
    few = judged(changed(queries=20, psi=9.0), DriftConfig())
    assert (few.drifted, few.enough) == (False, False)
    assert few.sentence.startswith("too few to tell: 20 queries")
    blind = judged(changed(psi=None, ks=None, domain_psi=None), DriftConfig())
    assert (blind.drifted, blind.enough) == (False, False)
    assert blind.sentence.startswith("nothing to tell by")


def test_the_mix_of_domains_can_be_left_out() -> None:
    assert judged(changed(domain_psi=3.0), DriftConfig()).drifted
    assert not judged(changed(domain_psi=3.0), DriftConfig(domain_psi=None)).drifted


@pytest.mark.parametrize("field", ["psi", "ks", "domain_psi", "min_queries"])
def test_thresholds_have_ranges(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        DriftConfig(**{field: -1})  # type: ignore[arg-type]


def test_the_table_shows_figures_thresholds_and_domains() -> None:
    lines = table(changed(psi=0.5), DriftConfig()).splitlines()
    assert lines[1].split() == ["cosine", "PSI", "0.5000", "0.1200", "0.2500", "drift"]
    assert ["paper", "75.0%", "50.0%"] in [line.split() for line in lines]
    assert lines[-1].startswith("drift: cosine PSI 0.500")


def test_the_verb_asks_a_service_and_its_exit_code_says_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked(*words: str) -> tuple[int | str | None, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["drift", *words])
        said = capsys.readouterr()
        return stopped.value.code, said.out

    built(tmp_path / "bundle")
    with serving(backend(tmp_path / "bundle")) as url:
        code, said = asked(url)
        assert (code, "too few to tell: 0 queries" in said) == (0, True)
        with Client(url) as client:
            answers = client.demonstrations_batch([[1.0, *[-1.0] * 47]] * 60)
            assert len(answers) == 60
            assert judge_drift(client, DriftConfig(min_queries=60)).drifted
            client.demonstrations(picture("red", 0))
        code, said = asked(url, "min_queries=61", "--json")
        assert code == 1
        assert json.loads(said)["verdict"]["numbers"]["queries"] == 61
        assert asked(url, "min_queries=61", "psi=50", "ks=1", "domain_psi=null")[0] == 0
        assert asked(url, "psy=1")[0] == 2
    assert asked(url)[0] == 2
