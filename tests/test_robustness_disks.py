"""Disks that are full, paths that are of another kind than wanted, links: one line, and nobody's data is lost."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from tiny import write_images

from viewfold.cli import main
from viewfold.errors import InvalidInput, one_line
from viewfold.folders import whole_folder
from viewfold.pipeline.stage import run_stage, write_whole

FULL = Path("/dev/full")
needs_dev_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no device that is always full")


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@needs_dev_full
def test_a_full_disk_is_named_with_its_free_space_and_nothing_half_written_stays(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "old").write_text("kept")

    def fill() -> None:
        with whole_folder(tmp_path / "x") as part, FULL.open("wb") as file:
            (part / "a").write_text("half")
            file.write(b"x" * 100_000)

    with pytest.raises(OSError, match="No space left") as full:
        fill()
    line = one_line(full.value)
    assert line.startswith(f"{tmp_path / 'x'}: no room left on the disk at ")
    assert line.endswith("MB are free now); make room, and the same command goes on")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x" / "old").read_text() == "kept"


@needs_dev_full
def test_a_stage_on_a_full_disk_ends_as_that_and_is_made_by_the_next_call(tmp_path: Path) -> None:
    def make(out: Path, *, target: Path | None) -> None:
        with (target or out / "vectors").open("wb") as file:
            np.ones(100_000).tofile(file)  # numpy's own error has no number

    def stage(target: Path | None) -> object:
        return run_stage(
            tmp_path / "s", name="s", config=1, inputs={}, make=lambda out: make(out, target=target), code_version="c"
        )

    with pytest.raises(OSError, match="No space left") as full:
        stage(FULL)
    assert full.value.errno == errno.ENOSPC
    assert full.value.filename == str(tmp_path / "s")
    assert not (tmp_path / "s").exists()
    stage(None)
    assert (tmp_path / "s" / "vectors").stat().st_size == 800_000


def test_another_failure_keeps_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^of another kind$"), whole_folder(tmp_path / "x"):
        raise RuntimeError("of another kind")


def test_a_folder_behind_a_link_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "x").symlink_to(tmp_path / "disk")
    for text in ("one", "two"):
        with whole_folder(tmp_path / "x") as part:
            (part / "a").write_text(text)
    assert (tmp_path / "x").readlink() == tmp_path / "disk"
    assert (tmp_path / "disk" / "a").read_text() == "two"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "x"]


def test_a_stage_that_was_moved_to_another_disk_is_made_again_there(tmp_path: Path) -> None:
    def make(out: Path, config: int) -> None:
        (out / "a").write_text(str(config))

    def stage(config: int) -> bool:
        done = run_stage(
            tmp_path / "s",
            name="s",
            config=config,
            inputs={},
            make=lambda out: make(out, config),
            code_version="c",
        )
        return done.reused

    stage(1)
    (tmp_path / "disk").mkdir()
    (tmp_path / "s").rename(tmp_path / "disk" / "s")
    (tmp_path / "s").symlink_to(tmp_path / "disk" / "s")
    assert stage(1)
    assert not stage(2)
    assert (tmp_path / "s").is_symlink()
    assert (tmp_path / "disk" / "s" / "a").read_text() == "2"


def test_a_folder_that_another_process_makes_is_left_to_it(tmp_path: Path) -> None:
    def second() -> None:
        with whole_folder(tmp_path / "x"):
            pytest.fail("two make it at once")

    with whole_folder(tmp_path / "x") as part:
        (part / "a").write_text("first")
        with pytest.raises(InvalidInput, match="another process is making it"):
            second()
    assert (tmp_path / "x" / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_link_that_leads_nowhere_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to(tmp_path / "gone")
    with pytest.raises(InvalidInput, match=r"a link to .*gone, which is not there"), whole_folder(tmp_path / "x"):
        pytest.fail("the work began")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_folder_in_the_place_of_a_file_is_named_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "shards", samples=2)
    main_quietly(["data", "index", str(tmp_path / "shards"), "--out", str(tmp_path / "shards")])
    capsys.readouterr()
    line = refused(["data", "stats", str(tmp_path / "shards"), "--sheet", str(tmp_path)], capsys)
    assert line == f"error: {tmp_path}: is a folder, where a file is wanted; give another path"


def test_a_file_in_the_place_of_a_folder_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    for path in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises((FileExistsError, NotADirectoryError)) as error:
            path.mkdir(parents=True, exist_ok=True)
        assert one_line(error.value).endswith("a file lies where a folder is wanted; name another folder")


@needs_dev_full
def test_a_file_that_cannot_be_written_whole_leaves_the_older_one(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", lambda file: file.write(b"old"))

    def too_much(_: object) -> None:
        with FULL.open("wb") as file:
            file.write(b"x" * 100_000)

    with pytest.raises(OSError, match="No space left") as full:
        write_whole(tmp_path / "a", too_much)
    assert full.value.filename == str(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def main_quietly(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 0
