"""A challenger is judged on what its own run and the champion's held back, and promoted by what is found."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from indexed_run import write_run
from tiny import write_images

from viewfold.cli import main
from viewfold.config import override, to_yaml
from viewfold.errors import InvalidInput
from viewfold.jobs import gates
from viewfold.jobs.champion import promote_challenger
from viewfold.jobs.data import DataConfig
from viewfold.jobs.evaluate_config import EvaluateConfig
from viewfold.jobs.gates import judge, weigh
from viewfold.jobs.gates_config import GatesConfig
from viewfold.jobs.gates_verdict import Verdict
from viewfold.jobs.registry import CHALLENGER, CHAMPION, Registry, VersionFacts
from viewfold.jobs.run_config import RunConfig

pytestmark = [pytest.mark.heavy, pytest.mark.slow]

NAME = "shapes"
LOOSE = override(
    GatesConfig(shift_images=8), [f"{gate}.may_fall=1" for gate in ("knn", "precision", "shift_consistency")]
)


@dataclass(frozen=True)
class World:
    """A registry with a champion and a challenger, from runs of different images."""

    home: Path
    registry: Registry

    def facts(self, alias: str) -> VersionFacts:
        return self.registry.facts(f"models:/{NAME}@{alias}")

    def judge(self, config: GatesConfig, champion: VersionFacts | None, out: Path) -> Verdict:
        challenger = self.facts(CHALLENGER)
        return judge(self.registry, config, challenger=challenger, champion=champion, home=self.home, out=out)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        registry = Registry(home)
        register(registry, home / "first", seed=0, alias=CHAMPION)
        register(registry, home / "second", seed=1, alias=CHALLENGER)
        yield World(home, registry)


def register(registry: Registry, folder: Path, *, seed: int, alias: str) -> None:
    """A run folder as a run leaves it, and its version."""
    shards = write_images(folder.with_name(f"{folder.name}-shards"), samples=48, domains=3, seed=seed)
    write_run(folder, shards)
    config = RunConfig(
        name=folder.name,
        data=DataConfig(shards=tuple(map(str, shards))),
        held_out=("style-2",),
        start="an encoder",
        evaluate=EvaluateConfig(k=3),
    )
    (folder / "config.yaml").write_text(to_yaml(config))
    encoder, bundle = folder / "pretrain" / "encoder", folder / "index" / "bundle"
    tags = {
        "encoder_id": json.loads((encoder / "encoder.json").read_text())["id"],
        "run": folder.name,
        "run_folder": str(folder),
        "bundle": str(bundle),
        "bundle_id": json.loads((bundle / "bundle.json").read_text())["id"],
    }
    with registry.run("viewfold", folder.name, params={}, tags={}) as run:
        registry.register(NAME, {"encoder": encoder}, dim=4, run=run, tags=tags, alias=alias)


def test_both_are_measured_on_what_either_held_back(world: World, tmp_path: Path) -> None:
    verdict = world.judge(LOOSE, world.facts(CHAMPION), tmp_path)
    assert verdict.passed, verdict.table()
    rows = {(row.gate, row.queries): row for row in verdict.rows}
    measured = ("knn", "precision", "effective_rank", "shift_consistency")
    compared = {(gate, queries) for gate in measured for queries in ("queries", "remembered")}
    assert {key for key, row in rows.items() if row.verdict == "passed"} == compared | {
        ("bundle_recall", "index"),
        ("bundle_latency_ms", "index"),
    }
    assert all(rows[key].difference is not None for key in compared)
    assert rows["effective_rank", "queries"].champion != rows["effective_rank", "remembered"].champion
    assert rows["rotation_r2", "queries"].reason == "the encoder has no equivariant part"
    kept = json.loads((tmp_path / "gates.json").read_text())
    assert {**verdict.to_dict(), **kept} == kept  # all of it, and whose it is
    assert (kept["challenger"], kept["champion"]) == ("2", "1")
    tags = world.facts(CHALLENGER).tags
    assert (tags["validation_status"], tags["validation"]) == ("passed", verdict.reason)


def test_a_first_version_is_held_against_floors_alone(world: World, tmp_path: Path) -> None:
    config = override(LOOSE, ["knn.at_least=0.2", "precision.at_least=1.5"])
    verdict = world.judge(config, None, tmp_path)
    assert [row.gate for row in verdict.rows] == [
        "knn", "precision", "effective_rank", "bundle_recall", "bundle_latency_ms"
    ]  # fmt: skip
    assert verdict.reason.startswith("precision on queries: ")
    assert world.facts(CHALLENGER).tags["validation_status"] == "failed"


def test_a_champion_whose_run_is_gone_is_measured_with_the_challengers_data(world: World, tmp_path: Path) -> None:
    old = world.facts(CHAMPION)
    gone = replace(old, tags={**old.tags, "run_folder": str(tmp_path / "gone")})
    verdict = world.judge(LOOSE, gone, tmp_path)
    assert verdict.passed
    assert {row.queries for row in verdict.rows} == {"queries", "index"}
    # It is the same untrained network, and now it sees the same data.
    assert all(row.difference.low == 0 for row in verdict.rows if row.gate == "knn" and row.difference)
    (note,) = verdict.notes
    assert "gone is not there" in note
    nothing = replace(gone, tags={})
    with pytest.raises(InvalidInput, match="has no tag run_folder"):
        weigh(world.registry, LOOSE, challenger=nothing, champion=None, home=world.home, out=tmp_path)


def test_an_index_that_is_gone_fails(world: World, tmp_path: Path) -> None:
    only = override(GatesConfig(), [f"{gate}=null" for gate in ("knn", "precision", "rotation_r2", "effective_rank")])
    only = replace(only, shift_consistency=None)
    new = world.facts(CHALLENGER)
    lost = replace(new, tags={**new.tags, "bundle": str(tmp_path)})
    verdict = weigh(world.registry, only, challenger=lost, champion=None, home=world.home, out=tmp_path)
    assert [row.verdict for row in verdict.rows] == ["failed", "failed"]


def test_the_verb_refuses_promotes_and_is_forced(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["promote", NAME, f"--home={home}", *words])
        assert isinstance(stopped.value.code, int)
        out, err = capsys.readouterr()
        return stopped.value.code, (err if stopped.value.code == 2 else out).strip().splitlines()[-1]

    home = tmp_path / "home"  # a copy, for this test moves the alias
    shutil.copytree(world.home, home)
    gates = tmp_path / "gates.yaml"
    gates.write_text(to_yaml(LOOSE))
    before = Registry(home).versions(NAME)
    assert call("--dry-run", f"--gates={gates}") == (0, "shapes version 2 would become champion")
    assert call("--dry-run", "knn.at_least=2") == (1, "shapes version 2 would not become champion")
    assert Registry(home).versions(NAME) == before
    strict = ("knn.at_least=2", f"--gates={gates}")
    assert call(*strict) == (1, "shapes version 2 does not become champion; version 1 stays")
    assert call(*strict, "--force") == (0, "shapes version 2 is champion in place of version 1, by force")
    tags = Registry(home).facts(f"models:/{NAME}@champion").tags
    assert tags["validation_status"] == "failed"
    assert tags["validation"].startswith("promoted by force, against: knn on queries: ")
    assert call() == (0, "shapes version 2 is champion already")
    code, line = call("--dry-run", "--force")
    assert (code, line[:30]) == (2, "error: --force has no effect w")


def test_a_champion_that_was_made_while_the_gates_measured_stays(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"  # a copy, for this test moves the alias
    shutil.copytree(world.home, home)
    registry = Registry(home)
    registry.client.create_model_version(NAME, source=home.as_uri())

    def overtaken(*words: Any, **facts: Any) -> Verdict:
        registry.point(NAME, CHAMPION, "3")
        return judge(*words, **facts)

    monkeypatch.setattr(gates, "judge", overtaken)
    for force in (False, True):
        registry.point(NAME, CHAMPION, "1")
        with pytest.raises(InvalidInput, match="version 3 was made champion while the gates measured; run promote"):
            promote_challenger(
                NAME, ["knn.may_fall=1", "precision.may_fall=1", "shift_consistency=null"],
                gates=None, home=home, dry_run=False, force=force,
            )  # fmt: skip
        assert registry.facts(f"models:/{NAME}@{CHAMPION}").version == "3"
