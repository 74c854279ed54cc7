"""Progress: what a terminal and a log file show; rows of a file that is being written."""

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from viewfold.pipeline.progress import follow, progress


def log_file() -> tuple[io.StringIO, Console]:
    file = io.StringIO()
    return file, Console(file=file, force_terminal=False, width=40)


def test_a_log_file_gets_the_last_state_as_one_line() -> None:
    file, console = log_file()
    with progress("pretrain", total=3, console=console) as bar:
        for step in range(3):
            bar.advance(loss=1.5 / (step + 1), samples_s=580.2, data_wait=0.031)
    assert file.getvalue() == "pretrain: 3/3, 0 s, loss 0.5, 580 samples/s, 3% waiting for data\n"


def test_a_log_file_gets_a_line_each_interval() -> None:
    file, console = log_file()
    with progress("verify", total=None, console=console, every_s=0) as bar:
        bar.advance(2)
        bar.advance(3, bad=1)
    assert file.getvalue().splitlines() == ["verify: 2, 0 s", "verify: 5, 0 s, bad 1"]


def test_what_was_reached_is_shown_when_the_work_fails() -> None:
    file, console = log_file()
    with pytest.raises(ValueError, match="no"), progress("index", total=9, console=console) as bar:  # noqa: PT012
        bar.advance(4)
        raise ValueError("no")
    assert file.getvalue() == "index: 4/9, 0 s\n"


def test_work_that_never_began_says_nothing() -> None:
    file, console = log_file()
    with progress("index", total=9, console=console):
        pass
    assert file.getvalue() == ""


@pytest.mark.parametrize("no_color", [False, True])
def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, no_color: bool) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    with progress("embed", total=4, console=Console(file=file, force_terminal=True, width=120)) as bar:
        bar.advance(3)
        bar.advance(1, samples_s=12.0)
    assert "4/4" in file.getvalue()
    assert "12 samples/s" in file.getvalue()
    assert ("\x1b[3" in file.getvalue()) != no_color


def test_rows_written_before_during_and_at_the_end_all_arrive(tmp_path: Path) -> None:
    path, rows = tmp_path / "metrics.jsonl", list[dict[str, Any]]()
    path.write_text('{"step": 1}\n')
    with follow(path, rows.append, poll_s=0.01):
        wait_for(lambda: len(rows) == 1)
        with path.open("a") as file:
            file.write('{"step": 2}\n{"st')
            file.flush()
            wait_for(lambda: len(rows) == 2)
            file.write('ep": 3}\n')
    assert [row["step"] for row in rows] == [1, 2, 3]


def test_a_file_that_comes_late_or_never_is_waited_for(tmp_path: Path) -> None:
    rows = list[dict[str, Any]]()
    with follow(tmp_path / "late", rows.append, poll_s=0.01):
        time.sleep(0.03)
        (tmp_path / "late").write_text(json.dumps({"step": 1}) + "\n")
    with follow(tmp_path / "never", rows.append, poll_s=0.01):
        pass
    assert rows == [{"step": 1}]


@pytest.mark.parametrize("after", [(2,), (20, 3), (2, 3, 4, 5)], ids=["shorter", "as long", "longer"])
def test_a_writer_that_goes_back_is_followed(tmp_path: Path, after: tuple[int, ...]) -> None:
    """Cut and written on between two looks, so that the size alone tells nothing."""
    path, rows = tmp_path / "metrics.jsonl", list[dict[str, Any]]()
    path.write_text("".join(f'{{"step": {step}, "try": 1}}\n' for step in (1, 2, 3)))
    with follow(path, rows.append, poll_s=0.01):
        wait_for(lambda: len(rows) == 3)
        whole = path.read_text().splitlines(keepends=True)
        again = tmp_path / "again"
        again.write_text(whole[0] + "".join(f'{{"step": {step}, "try": 2}}\n' for step in after))
        again.rename(path)
    assert [row["step"] for row in rows] == [1, 2, 3, *after]


def test_what_the_reader_raises_arrives(tmp_path: Path) -> None:
    (tmp_path / "m").write_text('{"step": 1}\n')

    def refuse(row: dict[str, Any]) -> None:
        raise ValueError(f"step {row['step']}")

    with pytest.raises(ValueError, match="step 1"), follow(tmp_path / "m", refuse, poll_s=0.01):
        pass


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "the rows did not arrive"
        time.sleep(0.005)
