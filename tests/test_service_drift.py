"""What the service tells of drift: which queries are counted, in which bins, for which pair."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from served import LOCAL, backend, built, client, images, picture, serving

from viewfold.retrieval import Client, DemoItem, DemoSet, FilterConfig, SelectConfig
from viewfold.retrieval.service.app import make_app
from viewfold.retrieval.service.config import ServiceConfig
from viewfold.retrieval.service.local import LocalBackend
from viewfold.retrieval.service.recent import LATEST, RecentQueries

FILES = images()
KEYS = sorted(FILES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drift")
    built(folder / "bundle")
    built(folder / "other", count=9)
    return folder


def demos(nearest: float | None = 0.5, *, fallback: str | None = None, domain: str | None = "paper") -> DemoSet:
    item = DemoItem("red/00", "red", domain, 0.5, 1, "choice 1 of 1 by cosine")
    stats = {} if nearest is None else {"nearest": nearest}
    return DemoSet("q", [item], {}, [], "invariant", 1, 0, "encoder", "bundle", stats, fallback)


def test_nothing_was_asked_yet(folder: Path) -> None:
    with client(folder / "bundle") as asked:
        told = asked.get("/v1/drift").json()
    assert (told["queries"], told["since"], told["psi"], told["median"]) == (0, None, None, None)
    assert told["reference_domains"] == {"paper": 6, "screen": 6}
    assert sum(told["reference_cosines"]["counts"]) == 12


def test_queries_are_counted_by_the_cosine_and_the_domain_of_their_first_choice(folder: Path) -> None:
    with client(folder / "bundle") as asked:
        chosen = [
            asked.post("/v1/demonstrations", content=picture("red", seed), headers={"Content-Type": "image/png"})
            for seed in range(40, 45)
        ]
        asked.post("/v1/demonstrations:batch", json={"queries": [{"vector": [float(n) for n in range(48)]}] * 2})
        told = asked.get("/v1/drift").json()
    firsts = [min(one.json()["demonstrations"]["items"], key=lambda item: item["rank"]) for one in chosen]
    counts, _ = np.histogram([item["score"] for item in firsts], bins=200, range=(-1, 1))
    assert told["queries"] == 7
    assert np.all(np.array(told["cosines"]["counts"]) >= counts)
    assert sum(told["domains"].values()) == 7
    for domain in ("paper", "screen"):
        assert told["domains"].get(domain, 0) >= sum(item["domain"] == domain for item in firsts)
    assert told["psi"] > 0
    assert 0 < told["ks"] <= 1
    assert told["domain_psi"] is not None


def test_queries_that_say_nothing_of_the_whole_index_are_left_out(folder: Path) -> None:
    asked = {"vector": [float(n) for n in range(48)]}
    with client(folder / "bundle") as service:
        for settings in ({"strategy": "random"}, {"k": 0}, {"filters": {"domains": ["paper"]}}):
            assert service.post("/v1/demonstrations", json={**asked, **settings}).status_code == 200
        told = service.get("/v1/drift").json()
    assert (told["queries"], told["left_out"]) == (0, 3)


def test_what_a_fallback_drew_tells_of_no_domain(folder: Path) -> None:
    info = backend(folder / "bundle").pair().info
    recent = RecentQueries()
    recent.add(info, demos(0.2, fallback="stratified_random"), SelectConfig())
    recent.add(info, demos(0.3, domain=None), SelectConfig())
    recent.add(info, demos(None), SelectConfig())
    recent.add(info, demos(0.4), SelectConfig(filters=FilterConfig(not_domains=("paper",))))
    told = recent.drift(info)
    assert (told.queries, told.left_out, told.domains) == (2, 2, {"": 1})


def test_the_latest_queries_take_the_place_of_older_ones(folder: Path) -> None:
    info = backend(folder / "bundle").pair().info
    recent = RecentQueries()
    for number in range(LATEST + 10):
        recent.add(info, demos(0.1 if number < 10 else 0.905), SelectConfig())
    told = recent.drift(info)
    assert (told.queries, max(told.cosines.counts)) == (LATEST, LATEST)
    assert told.median == pytest.approx(0.905)


def test_each_pair_has_counts_of_its_own_and_the_oldest_are_forgotten(folder: Path) -> None:
    info = backend(folder / "bundle").pair().info
    recent = RecentQueries()
    for number in range(5):
        recent.add(dataclasses.replace(info, id=f"pair-{number}"), demos(), SelectConfig())
    assert [recent.drift(dataclasses.replace(info, id=f"pair-{n}")).queries for n in (4, 3, 2, 1)] == [1, 1, 1, 1]
    assert recent.drift(dataclasses.replace(info, id="pair-0")).queries == 0


def test_bins_are_those_of_numpy(folder: Path) -> None:
    info = backend(folder / "bundle").pair().info
    values = np.r_[np.linspace(-1, 1, 201), np.random.default_rng(0).uniform(-1, 1, 500).round(6)]
    recent = RecentQueries()
    for value in [*values.tolist(), 1.000001, -1.000001]:  # float32 goes a little beyond 1
        recent.add(info, demos(value), SelectConfig())
    counts, _ = np.histogram([*values, 1, -1], bins=200, range=(-1, 1))
    np.testing.assert_array_equal(recent.drift(info).cosines.counts, counts)


def test_another_pair_begins_anew_and_the_first_one_is_remembered(folder: Path) -> None:
    settings = ServiceConfig(reload_sources=("*",))
    with serving(backend(folder / "bundle"), settings) as url, Client(url) as asked:
        asked.demonstrations(FILES[KEYS[0]])
        first = asked.drift()
        assert (first.queries, first.pair) == (1, asked.indexes()[0]["pair"]["id"])
        asked.reload(str(folder / "other"))
        assert (asked.drift().queries, asked.drift().pair != first.pair) == (0, True)
        asked.reload(None)
        assert asked.drift() == first


def test_prometheus_is_told_what_was_found_and_what_chance_makes(folder: Path) -> None:
    with client(folder / "bundle") as asked:
        before = asked.get("/metrics").text
        asked.post("/v1/demonstrations", content=picture("blue", 50), headers={"Content-Type": "image/png"})
        after = asked.get("/metrics").text
    assert "viewfold_drift_psi{" not in before
    assert "viewfold_drift_queries 1.0" in after
    series = {f'viewfold_drift_{name}{{kind="{kind}"' for name in ("psi", "ks") for kind in ("found", "chance")}
    assert all(name in after for name in series), after


def test_a_service_without_a_pair_is_not_ready_to_say() -> None:
    def nothing(source: str | None) -> None: ...

    app = make_app(LocalBackend(nothing), ServiceConfig())  # type: ignore[arg-type]
    with TestClient(app, base_url=LOCAL) as asked:
        assert asked.get("/v1/drift").status_code == 503
        assert "viewfold_drift_queries 0.0" in asked.get("/metrics").text
