"""The alias moves in one call; tags say since when and in whose place; a call that was cut is made again."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Literal

import pytest
from servers import unanswered
from tiny import write_images

from viewfold.cli import main
from viewfold.errors import InvalidInput
from viewfold.jobs.champion import history_of, roll_back_to
from viewfold.jobs.data import DataConfig
from viewfold.jobs.nightly_config import NightlyConfig
from viewfold.jobs.nightly_night import begin
from viewfold.jobs.nightly_prune import prune
from viewfold.jobs.outbox import KEPT, About, Outbox
from viewfold.jobs.overwrite import REGISTRATION, keep_champion, lost_champion
from viewfold.jobs.promotion import promote, roll_back
from viewfold.jobs.recipes import find
from viewfold.jobs.registry import CHALLENGER, CHAMPION, Registry, VersionFacts
from viewfold.jobs.run import run_recipe
from viewfold.jobs.run_folder import Run

pytestmark = pytest.mark.heavy

NOW = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
LATER = NOW + timedelta(days=1)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A database, which is slow to make; each test has a model of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield Registry(tmp_path_factory.mktemp("home"))


NUMBERS = count()


@pytest.fixture
def model(registry: Registry) -> Callable[[int], list[VersionFacts]]:
    """Makes a model with so many versions, which hold nothing."""

    def make(versions: int) -> list[VersionFacts]:
        name = f"model-{next(NUMBERS)}"
        registry.client.create_registered_model(name)
        for _ in range(versions):
            registry.client.create_model_version(name, source=registry.home.as_uri())
        return registry.versions(name)[::-1]

    return make


Model = Callable[[int], list[VersionFacts]]


def tags(registry: Registry, version: VersionFacts) -> dict[str, str]:
    return registry.facts(f"models:/{version.name}/{version.version}").tags


def champion(registry: Registry, name: str) -> str | None:
    found = registry.find(name, CHAMPION)
    return None if found is None else found.version


def test_a_promotion_says_since_when_and_in_whose_place_and_twice_changes_nothing(
    registry: Registry, model: Model
) -> None:
    one, two = model(2)
    promote(registry, one, now=NOW)
    assert tags(registry, one) == {"champion_since": "2026-03-01T02:00:00+00:00"} | dict.fromkeys(
        ("champion_until", "restored_from"), ""
    )
    promote(registry, two, now=LATER)
    assert champion(registry, one.name) == "2"
    assert tags(registry, two)["replaces"] == "1"
    assert tags(registry, one)["champion_until"] == tags(registry, two)["champion_since"]
    before = registry.versions(one.name)
    promote(registry, two, now=LATER + timedelta(days=1))
    assert registry.versions(one.name) == before


@pytest.mark.parametrize("moved", [False, True])
def test_a_promotion_that_was_cut_is_finished_by_the_next_call(registry: Registry, model: Model, moved: bool) -> None:
    one, two = model(2)
    promote(registry, one, now=NOW)
    registry.tag(two.name, two.version, {"champion_since": "2026-03-02T02:00:00+00:00", "replaces": "1"})
    if moved:
        registry.point(two.name, CHAMPION, two.version)
    assert "champion_until" not in {name for name, value in tags(registry, one).items() if value}
    promote(registry, two, now=LATER)
    assert champion(registry, one.name) == "2"
    assert tags(registry, one)["champion_until"] == tags(registry, two)["champion_since"] == "2026-03-02T02:00:00+00:00"


def test_rolling_back_twice_goes_back_once(registry: Registry, model: Model) -> None:
    one, two, three = model(3)
    for version in (one, two, three):
        promote(registry, version, now=NOW)
    registry.point(one.name, CHALLENGER, three.version)
    for _ in range(2):
        now = roll_back(registry, one.name, reason="canaries failed", now=LATER)
        assert (now.version, CHAMPION in now.aliases) == ("2", True)
    left = tags(registry, three)
    assert (left["validation_status"], left["validation"]) == ("rolled back", "canaries failed")
    assert registry.find(one.name, CHALLENGER) is None
    assert tags(registry, two)["champion_until"] == ""
    assert roll_back(registry, one.name, reason="older", now=LATER, to="1").version == "1"
    promote(registry, three, now=LATER)
    assert roll_back(registry, one.name, reason="again", now=LATER).version == "1"  # the one that was replaced


@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_rollback_that_was_cut_is_finished_by_the_next_call(registry: Registry, model: Model, done: int) -> None:
    one, two = model(2)
    for version in (one, two):
        promote(registry, version, now=NOW)
    registry.point(one.name, CHALLENGER, two.version)
    registry.tag(two.name, two.version, {"validation_status": "rolled back", "validation": "bad"})
    if done > 1:
        registry.tag(one.name, one.version, {"restored_from": "2", "champion_until": ""})
    if done > 2:
        registry.point(one.name, CHAMPION, one.version)
    assert roll_back(registry, one.name, reason="bad", now=LATER).version == "1"
    assert champion(registry, one.name) == "1"
    assert registry.find(one.name, CHALLENGER) is None


def test_what_cannot_be_gone_back_to_is_refused(registry: Registry, model: Model, tmp_path: Path) -> None:
    one, two = model(2)
    with pytest.raises(InvalidInput, match="no version has the alias champion"):
        roll_back(registry, one.name, reason="", now=NOW)
    promote(registry, two, now=NOW)
    with pytest.raises(InvalidInput, match="replaced no version; name the one"):
        roll_back(registry, one.name, reason="", now=NOW)
    with pytest.raises(InvalidInput, match=f"models:/{one.name}/9: not found"):
        roll_back(registry, one.name, reason="", now=NOW, to="9")
    registry.tag(one.name, one.version, {"bundle": str(tmp_path / "gone")})
    with pytest.raises(InvalidInput, match=r"models:/model-\d+/1 cannot be served: its index .*gone is not there"):
        roll_back(registry, one.name, reason="", now=NOW, to="1")
    (tmp_path / "bundle.json").write_text('{"encoder_id": "another"}')
    registry.tag(one.name, one.version, {"bundle": str(tmp_path), "encoder_id": "own"})
    with pytest.raises(
        InvalidInput, match=r"1 cannot be served: its index .* was built anew with another encoder; name"
    ):
        roll_back(registry, one.name, reason="", now=NOW, to="1")
    assert champion(registry, one.name) == "2"
    (tmp_path / "bundle.json").write_text('{"encoder_id": "own"}')
    assert roll_back(registry, one.name, reason="", now=NOW, to="1").version == "1"


def test_a_challenger_does_not_take_the_place_of_a_champions_index(
    registry: Registry, model: Model, tmp_path: Path
) -> None:
    """The folder of a run of which version 1 was registered, and is champion."""
    (one,) = model(1)
    write_images(tmp_path / "shards", samples=8)
    config = replace(
        find("smoke", []), data=DataConfig(shards=(str(tmp_path / "shards"),)), alias="challenger", register_as=one.name
    )
    folder = registry.home / "again"
    run_recipe(config, folder, home=registry.home, until="data")
    (folder / "register").mkdir()
    (folder / "register" / REGISTRATION).write_text(json.dumps({"model": one.name}))
    registry.tag(one.name, "1", {"bundle": str(folder.resolve() / "index" / "bundle"), "encoder_id": "first"})
    registry.point(one.name, CHALLENGER, "1")

    def run(alias: Literal["champion", "challenger"]) -> Run:
        return Run(replace(config, alias=alias), folder, registry.home, ExitStack())

    keep_champion(run("challenger"), "adapt")  # a challenger may give way to the next
    registry.point(one.name, CHAMPION, "1")
    with pytest.raises(InvalidInput, match=rf"models:/{one.name}@champion, version 1, is served .* folder with --out"):
        run_recipe(config, folder, home=registry.home, until="pretrain")
    assert not list(folder.glob("pretrain*"))  # before it began
    for encoder_id, refused in (("first", False), ("second", True)):
        (folder / "adapt" / "encoder").mkdir(parents=True, exist_ok=True)
        (folder / "adapt" / "encoder" / "encoder.json").write_text(json.dumps({"id": encoder_id}))
        with pytest.raises(InvalidInput, match="is served") if refused else nullcontext():
            keep_champion(run("challenger"), "index")
        keep_champion(run("champion"), "index")  # the alias moves with it
        assert bool(lost_champion(run("champion"), one.name)) == refused


def test_the_history_tells_who_is_champion_since_when(registry: Registry, model: Model) -> None:
    one, two = model(2)
    registry.tag(two.name, two.version, {"parent": "1", "run": "night/2", "validation_status": "passed"})
    registry.tag(two.name, two.version, {"validation": "7 of 7 gates passed"})
    promote(registry, one, now=NOW)
    promote(registry, two, now=LATER)
    lines = history_of(one.name, home=registry.home, as_json=False).splitlines()
    assert lines[0].split() == ["version", "created", "aliases", "status", "began", "from", "champion", "run"]
    assert "champion  passed  1           since 2026-03-02 02:00" in lines[1]
    assert "2026-03-01 02:00 to 2026-03-02 02:00" in lines[2]
    assert lines[3] == "2: 7 of 7 gates passed"
    said = [roll_back_to(one.name, to=None, reason="by hand", home=registry.home) for _ in range(2)]
    assert said == [
        f"{one.name} version 1 is champion again in place of version 2",
        f"{one.name} version 1 is champion already, put back in place of version 2; --to goes further back",
    ]
    assert '"validation_status": "rolled back"' in history_of(one.name, home=registry.home, as_json=True)
    with pytest.raises(InvalidInput, match="nothing: not a model of sqlite"):
        history_of("nothing", home=registry.home, as_json=False)


def test_a_night_stays_until_the_server_has_its_runs(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An abandoned one, whose training was killed while its server was away."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = NightlyConfig(name="unsent", recipe="smoke", keep=1)
    old, current = (
        begin(tmp_path / f"2026-01-0{day}-00000000", date=f"2026-01-0{day}", hash="00000000") for day in (1, 2)
    )
    old.end("abandoned", "")
    with unanswered() as gone:
        about = About(
            experiment="viewfold", name="r", params={}, tags={}, uri=f"http://{gone}", home=str(registry.home)
        )
        box = Outbox.begin(old.run / KEPT, about, {})
        assert prune(config, registry, [old], current)["removed"] == []
    assert box.ended is not None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    assert prune(config, registry, [old], current)["removed"] == [old.folder.name]
    assert not old.folder.exists()


@pytest.mark.parametrize("words", [["history", "m"], ["rollback", "m"], ["promote", "m", "--dry-run"]])
def test_no_registry_is_made_where_a_path_was_mistyped(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--home", str(tmp_path / "rums")])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "rums: no registry here (no mlflow.db); name its folder with --home" in line
    assert not list(tmp_path.iterdir())
