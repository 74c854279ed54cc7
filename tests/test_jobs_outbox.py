"""What is kept for a tracking server: nothing twice, nothing lost, half lines cut off."""

import json
from pathlib import Path

import pytest

from viewfold.jobs.outbox import About, Outbox, Sent, kept

SERVER = "http://server"


def about(name: str = "r/pretrain", steps: str = "4") -> About:
    """One tracked run."""
    return About(experiment="viewfold", name=name, params={"steps": steps}, tags={}, uri=SERVER, home="/home")


def steps(box: Outbox) -> list[int]:
    """Of the rows that are kept."""
    return [row.step for row, _ in box.rows(0)]


def test_rows_keep_numbers_and_when_they_were_written(tmp_path: Path) -> None:
    box = Outbox.begin(tmp_path, about(), {})
    box.log_row({"step": 2, "loss": 0.5, "workers": 2, "engine": "plain"})
    ((row, end),) = box.rows(0)
    assert (row.step, row.values) == (2, {"loss": 0.5, "workers": 2.0})
    assert row.time >= box.about.began
    assert not list(box.rows(end))


def test_a_run_that_was_killed_goes_on_and_no_step_is_kept_twice(tmp_path: Path) -> None:
    box = Outbox.begin(tmp_path, about(), {}, resume="mark")
    for step in (1, 2):
        box.log_row({"step": step, "loss": 1.0})
        box.log_system({"cpu": 10.0})
    with (box.folder / "rows.jsonl").open("ab") as file:
        file.write(b'{"time": 1, "st')  # the kill
    again = Outbox.begin(tmp_path, about(), {}, resume="mark")
    assert again.about == box.about
    for step in (1, 2, 3):  # metrics.jsonl is read from its beginning
        again.log_row({"step": step, "loss": 1.0})
    again.log_system({"cpu": 10.0})
    assert [row.step for row, _ in again.rows(0) if "loss" in row.values] == [1, 2, 3]
    assert [row.step for row, _ in again.rows(0) if "system/cpu" in row.values] == [0, 1, 2]


def test_other_settings_or_other_code_are_another_run_and_end_the_one_that_was_killed(tmp_path: Path) -> None:
    killed = Outbox.begin(tmp_path, about(), {}, resume="mark")
    other_stage = Outbox.begin(tmp_path, about("r/adapt"), {}, resume="mark")
    new = Outbox.begin(tmp_path, about(steps="8"), {}, resume="mark")
    newer = Outbox.begin(tmp_path, about(steps="8"), {}, resume="other code")
    assert len({box.folder for box in (killed, other_stage, new, newer)}) == 4
    assert [box.ended and box.ended[0] for box in (killed, new, newer, other_stage)] == ["KILLED", "KILLED", None, None]


def test_a_run_that_ended_is_never_gone_on_with(tmp_path: Path) -> None:
    first = Outbox.begin(tmp_path, about(), {}, resume="mark")
    first.log_row({"step": 1, "loss": 1.0})
    first.end("FINISHED")
    second = Outbox.begin(tmp_path, about(), {}, resume="mark")
    assert second.folder != first.folder
    assert steps(second) == []
    assert [box.folder for box in kept(tmp_path)] == [first.folder, second.folder]


def test_files_are_copies(tmp_path: Path) -> None:
    card, config = tmp_path / "card.json", tmp_path / "config.yaml"
    card.write_text("{}")
    config.write_text("a: 1")
    box = Outbox.begin(tmp_path / "tracking", about(), {"card": [card], "": [config]})
    card.unlink()
    assert [(where, file.name, file.read_text()) for where, file in box.files()] == [
        ("card", "card.json", "{}"),
        ("", "config.yaml", "a: 1"),
    ]


def test_what_one_server_has_says_nothing_of_another(tmp_path: Path) -> None:
    box = Outbox.begin(tmp_path, about(), {})
    box.note(Sent(uri=SERVER, run_id="7", row_bytes=3, files=("card/card.json",)))
    assert box.sent(SERVER) == Sent(uri=SERVER, run_id="7", row_bytes=3, files=("card/card.json",))
    assert box.sent("http://other") == Sent(uri="http://other")


def test_what_a_kill_left_before_it_was_whole_is_no_run(tmp_path: Path) -> None:
    box = Outbox.begin(tmp_path, about(), {}, resume="mark")
    (box.folder / "run.json").unlink()
    (box.folder / "rows.jsonl").write_text(json.dumps({"time": 1, "step": 9, "values": {}}) + "\n")
    assert kept(tmp_path) == []
    assert steps(Outbox.begin(tmp_path, about(), {}, resume="mark")) == []


def test_the_folder_goes_with_the_last_run(tmp_path: Path) -> None:
    first, second = (Outbox.begin(tmp_path / "tracking", about(name), {}) for name in ("r/a", "r/b"))
    first.remove()
    assert [box.about.name for box in kept(tmp_path / "tracking")] == ["r/b"]
    second.remove()
    assert list(tmp_path.iterdir()) == []


def test_an_outbox_of_another_version_is_left_where_it_is_and_told_of_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, mended in (("older", {}), ("newer", {"experiment": "e", "more": 1})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(mended))
    box = Outbox.begin(tmp_path, about(), {}, resume="mark")
    for _ in range(2):
        assert [one.folder for one in kept(tmp_path)] == [box.folder]
    lines = capsys.readouterr().err.splitlines()
    assert sorted(line.partition(": not of this version")[0] for line in lines) == [
        f"warning: {tmp_path / name / 'run.json'}" for name in ("newer", "older")
    ]
