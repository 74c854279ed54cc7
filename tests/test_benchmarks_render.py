"""docs/benchmarks.md is what the records say, losses included, and `make bench` goes on when a suite fails."""

import json
import re
import subprocess
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from benchmarks import LONG, SUITES
from benchmarks.__main__ import main, run_all
from benchmarks.chart import Line, draw
from benchmarks.machine import describe_machine
from benchmarks.measure import RESULTS, Comparison, Label, Row, compared
from benchmarks.peers import PEERS, peer_versions, python_with
from benchmarks.render import PAGE, page, records
from viewfold.errors import InvalidInput

BENCHMARKS = RESULTS.parent
MACHINE = {"cpu": "C", "cores": 2, "gpu": None, "python": "3", "versions": {"torch": "2"}, "commit": "c", "date": "d"}


def record_of(rows: list[Row], **labels: Label) -> dict[str, Any]:
    return {"machine": MACHINE, "labels": {name: asdict(label) for name, label in labels.items()}, "rows": rows}


def cells(text: str, first: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_page_is_what_the_records_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(records())


@pytest.mark.slow  # it imports every suite and what that measures
def test_every_record_is_of_a_suite_and_shown_with_that_suites_own_words() -> None:
    found = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in RESULTS.glob("*.json")}
    assert set(found) <= {*SUITES, *LONG}
    for name, record in found.items():
        suite = import_module(f"benchmarks.{name}")
        labels = {key: asdict(label) for key, label in getattr(suite, "LABELS", {}).items()}
        assert (name, record.get("labels", {})) == (name, labels)
        assert "page" in record or {row["name"] for row in record["rows"]} <= set(labels)


def test_the_page_shows_every_suite_or_says_that_it_has_no_record() -> None:
    found = {name: record for name, record in records().items() if name != "losses"}
    shown = page(found)
    for name in (*SUITES, *LONG):
        (unmeasured,) = [line for line in shown.splitlines() if line.startswith("Without a record so far")]
        assert (f"## {name}" in shown.splitlines()) == (name in found)
        assert (f"`{name}`" in unmeasured) == (name not in found)


@pytest.mark.parametrize("name", [*SUITES, *LONG])
def test_a_suite_is_a_module_that_writes_its_record(name: str) -> None:
    text = (BENCHMARKS / f"{name}.py").read_text(encoding="utf-8")
    assert 'if __name__ == "__main__":' in text
    assert f'run_suite("{name}"' in text or "--out" in text


def test_losses_stand_above_wins_with_their_reasons() -> None:
    half = compared("slow", 1.0, Comparison([2.0] * 3, [1.0] * 3))
    twice = compared("fast", 1.5, Comparison([1.0] * 3, [2.0] * 3))
    shown = page(
        {
            "stream": record_of(
                [twice, half],
                fast=Label(what="a race", beside="a snail", why="it ran"),
                slow=Label(what="another", beside="a hare", why="it slept"),
            )
        }
    )
    summary = shown[: shown.index("## stream")]
    assert "1 met theirs, **1 missed**" in summary
    assert summary.index("a hare") < summary.index("a snail")
    assert "- `slow`: it slept." in summary
    assert "it ran" not in summary  # the reason for a target that was reached
    assert cells(shown, "another") == ["another", "a hare", "0.50 [0.50, 0.50]", "at least 1", "**missed**"]
    assert cells(shown, "a race") == ["a race", "a snail", "2.00 [2.00, 2.00]", "at least 1.5", "met"]


@pytest.mark.parametrize(
    ("low", "high", "less", "verdict"),
    [
        (0.9, 2.0, False, "met by the median alone"),
        (1.1, 2.0, False, "met"),
        (0.9, 2.0, True, "met by the median alone"),
        (0.9, 1.4, True, "met"),
    ],
)
def test_an_interval_that_does_not_reach_the_target_is_told(low: float, high: float, less: bool, verdict: str) -> None:
    row = {"name": "a", "value": 1.2, "low": low, "high": high, "target": 1.5 if less else 1.0, "met": True, "px": 32}
    label = Label(what="work", unit="ms", less=less, case="{px} px")
    *_, value, target, told = cells(page({"serve": record_of([row], a=label)}), "work; 32 px")
    assert (value, told) == (f"1.20 [{low:.2f}, {high:.2f}] ms", verdict)
    assert target == ("at most 1.5" if less else "at least 1")


def test_a_record_with_a_page_of_its_own_is_only_named() -> None:
    shown = page({"scale": {**record_of([{"name": "hours", "value": 7.0}]), "page": "scale.md"}})
    assert "1 figures that are compared with nothing: [scale.md](scale.md)" in shown
    assert "hours" not in shown[shown.index("## scale") :]


def test_the_chart_is_drawn_with_and_without_targets(tmp_path: Path) -> None:
    with_target = compared("fast", 1.5, Comparison([1.0] * 3, [2.0] * 3))
    lines = [
        Line("more", Label(what="a"), [with_target, with_target]),
        Line("less", Label(what="b", less=True), [{"name": "b", "value": 3.0}]),
    ]
    draw(lines, tmp_path / "new" / "chart.png")
    assert (tmp_path / "new" / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_a_suite_that_fails_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "losses.json").write_text('{"minutes": 3.21}')
    ran: list[str] = []

    def run(name: str) -> bool:
        ran.append(name)
        return name != "augment"

    assert run_all(["augment", "losses"], run, tmp_path) == ["augment"]
    assert ran == ["augment", "losses"]
    first, failed, second, done = capsys.readouterr().out.splitlines()
    assert (first, second) == ("== 1 of 2: augment", "== 2 of 2: losses, 3.2 min the last time")
    assert re.fullmatch(r"== augment: FAILED after [\d.]+ min", failed)
    assert re.fullmatch(r"== losses: done after [\d.]+ min", done)


def test_an_unknown_suite_is_answered_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["looses"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("no suite looses: there are decode, ")
    assert len(told.splitlines()) == 1


def test_the_peers_python_is_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    peer_versions.cache_clear()
    monkeypatch.setenv(PEERS, sys.executable)
    assert python_with("numpy") == sys.executable
    assert python_with("no-such-package") is None
    assert set(peer_versions("numpy", "no-such-package")) == {"numpy"}
    peer_versions.cache_clear()
    monkeypatch.setenv(PEERS, "/no/such/python")
    with pytest.raises(InvalidInput, match="/no/such/python does not run as Python"):
        peer_versions()


def test_code_that_differs_from_the_commit_is_told_and_fresh_records_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert describe_machine()["commit"] == "unknown"
    for file in ("code.py", "benchmarks/results/losses.json", "docs/benchmarks.md"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("old")
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "one"]):
        subprocess.run(["git", *words], check=True)
    commit = describe_machine()["commit"]
    assert re.fullmatch("[0-9a-f]{7,}", commit)
    for file in ("benchmarks/results/losses.json", "docs/benchmarks.md"):
        (tmp_path / file).write_text("new")
    assert describe_machine()["commit"] == commit
    (tmp_path / "code.py").write_text("new")
    assert describe_machine()["commit"] == f"{commit}-dirty"


def test_the_targets_of_make_are_explained() -> None:
    run = subprocess.run(["make", "help"], cwd=BENCHMARKS.parent, capture_output=True, text=True, check=True)
    told = dict(line.split(maxsplit=2)[1:] for line in run.stdout.splitlines())
    assert {"bench", "docs", "peers"} <= set(told)
