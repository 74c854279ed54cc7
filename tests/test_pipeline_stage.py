"""Stages and files: whole or not at all, made again only when something changed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from viewfold.errors import InvalidInput
from viewfold.pipeline.stage import StageRecord, code_version, run_stage, write_whole


class Maker:
    """Writes its files and counts how often it was asked to."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self.files = files
        self.seen: list[list[str]] = []

    def __call__(self, part: Path) -> dict[str, Any]:
        self.seen.append(sorted(path.name for path in part.iterdir()))
        for name, text in self.files.items():
            (part / name).parent.mkdir(exist_ok=True)
            (part / name).write_text(text)
        return {"files": tuple(self.files)}


@pytest.fixture
def make() -> Maker:
    return Maker({"a.txt": "one", "deep/b.txt": "three"})


def run(folder: Path, make: Callable[[Path], Mapping[str, Any] | None], **changes: Any) -> StageRecord:
    settings: dict[str, Any] = {
        "name": "embed",
        "config": {"dim": 4},
        "inputs": {"encoder": "e1"},
        "code_version": "c1",
    }
    return run_stage(folder, make=make, **(settings | changes))


def test_a_finished_stage_is_found_and_not_made_again(tmp_path: Path, make: Maker) -> None:
    made = run(tmp_path / "embed", make)
    found = run(tmp_path / "embed", make)
    assert (made.reused, found.reused, len(make.seen)) == (False, True, 1)
    assert made.outputs == {"a.txt": 3, "deep/b.txt": 5}
    assert made.result == {"files": ["a.txt", "deep/b.txt"]}
    assert (found.id, found.seconds, found.result) == (made.id, made.seconds, made.result)
    assert found.folder == tmp_path / "embed"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".embed.lock", "embed"]


@pytest.mark.parametrize(
    "change",
    [{"name": "index"}, {"config": {"dim": 5}}, {"inputs": {"encoder": "e2"}}, {"code_version": "c2"}],
    ids=lambda change: next(iter(change)),
)
def test_whatever_a_stage_depends_on_makes_it_again(tmp_path: Path, make: Maker, change: dict[str, Any]) -> None:
    first = run(tmp_path / "embed", make)
    again = run(tmp_path / "embed", make, **change)
    assert not again.reused
    assert again.fingerprint != first.fingerprint
    assert again.id != first.id
    assert make.seen[1] == ["stage.started"], "work of another fingerprint must not be built on"


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("half")], ids=["missing", "other size"])
def test_a_stage_whose_outputs_changed_is_made_again(
    tmp_path: Path, make: Maker, damage: Callable[[Path], object]
) -> None:
    first = run(tmp_path / "embed", make)
    damage(tmp_path / "embed" / "deep" / "b.txt")
    assert run(tmp_path / "embed", make).id != first.id
    assert (tmp_path / "embed" / "deep" / "b.txt").read_text() == "three"


def test_a_cut_stage_goes_on_in_its_half_done_work(tmp_path: Path, make: Maker) -> None:
    def cut(part: Path) -> None:
        (part / "checkpoint").write_text("step 3")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "embed", cut)
    assert not (tmp_path / "embed").exists()
    run(tmp_path / "embed", make)
    assert make.seen == [["checkpoint", "stage.started"]]
    assert not (tmp_path / "embed" / "stage.started").exists()


def test_half_done_work_of_other_settings_is_not_used(tmp_path: Path, make: Maker) -> None:
    def cut(part: Path) -> None:
        (part / "checkpoint").write_text("step 3")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "embed", cut, config={"dim": 8})
    run(tmp_path / "embed", make)
    assert make.seen == [["stage.started"]]


def test_a_kill_between_the_last_two_renames_costs_nothing(tmp_path: Path, make: Maker) -> None:
    made = run(tmp_path / "embed", make)
    (tmp_path / "embed").rename(tmp_path / "embed.part")
    (tmp_path / "embed.old").mkdir()
    assert run(tmp_path / "embed", make).id == made.id
    assert len(make.seen) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [".embed.lock", "embed"]


def test_two_runs_in_one_folder_are_refused(tmp_path: Path, make: Maker) -> None:
    def inner(part: Path) -> None:
        run(tmp_path / "embed", make)

    with pytest.raises(InvalidInput, match=r"embed: another process is making this stage \(it holds \.embed\.lock\)"):
        run(tmp_path / "embed", inner)
    assert make.seen == []


def test_a_folder_that_no_stage_made_is_not_replaced(tmp_path: Path, make: Maker) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("ten years of work")
    with pytest.raises(InvalidInput, match=r"thesis: exists and holds no stage\.json"):
        run(tmp_path / "thesis", make)
    assert (tmp_path / "thesis" / "chapter.txt").exists()


def test_the_record_says_what_the_stage_was_made_of(tmp_path: Path, make: Maker) -> None:
    run(tmp_path / "embed", make)
    record = json.loads((tmp_path / "embed" / "stage.json").read_text())
    assert set(record) == {
        *("format", "name", "fingerprint", "id", "seconds", "code_version", "inputs", "outputs", "result"),
    }
    assert record["inputs"] == {"encoder": "e1"}


def test_a_file_is_the_old_one_until_it_is_the_new_one(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "new" / "file", lambda file: file.write(b"old"))

    def fail(file: BinaryIO) -> None:
        file.write(b"ne")
        raise OSError("cable out")

    with pytest.raises(OSError, match="cable out"):
        write_whole(path, fail)
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "file", lambda file: file.write(b"old"))
    script = (
        "import os, signal, pathlib; from viewfold.pipeline.stage import write_whole\n"
        f"write_whole(pathlib.Path({str(path)!r}), lambda file: os.kill(os.getpid(), signal.SIGKILL))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    killed = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_code_version_is_a_version_and_a_hash() -> None:
    version, _, digest = code_version().partition("+")
    assert version.count(".") == 2
    assert len(digest) == 12
    assert code_version() is code_version()
