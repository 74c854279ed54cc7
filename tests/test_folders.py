"""Folders that take the place of others."""

import subprocess
import sys
from pathlib import Path

import pytest

from viewfold.folders import take_back, whole_folder


def fill(folder: Path, text: str) -> None:
    with whole_folder(folder) as part:
        (part / "a").write_text(text)


WATCHED = """
import sys
from pathlib import Path
from viewfold.folders import whole_folder
folder, absent = Path(sys.argv[1]), []
sys.addaudithook(lambda event, args: event in ("os.rename", "shutil.rmtree") and absent.append(not folder.exists()))
with whole_folder(folder) as part:
    (part / "a").write_text("two")
print(len(absent) > 0, any(absent))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges two folders in one step")
def test_a_folder_that_is_replaced_is_absent_at_no_step(tmp_path: Path) -> None:
    fill(tmp_path / "x", "one")
    command = [sys.executable, "-c", WATCHED, str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).resolve().parents[1])
    assert done.stdout.split() == ["True", "False"]
    assert (tmp_path / "x" / "a").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_what_a_process_killed_between_two_renames_left_is_taken_back(tmp_path: Path) -> None:
    fill(tmp_path / "x", "one")
    (tmp_path / "x").rename(tmp_path / "x.spare")
    take_back(tmp_path / "x")
    assert (tmp_path / "x" / "a").read_text() == "one"
    (tmp_path / "x.spare").mkdir()
    take_back(tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


KILLED = """
import os, sys
from pathlib import Path
from viewfold.folders import publish
folder, step = Path(sys.argv[1]), int(sys.argv[2])
def die(event, args):
    global step
    if event in ("os.rename", "shutil.rmtree"):
        step -= 1
        if step < 0:
            os._exit(9)
sys.addaudithook(die)
publish(folder.with_name("x.part"), folder)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges two folders in one step")
@pytest.mark.parametrize("step", range(3))
def test_a_kill_while_a_folder_is_replaced_leaves_the_new_one_where_it_is_looked_for(tmp_path: Path, step: int) -> None:
    fill(tmp_path / "x", "one")
    fill(tmp_path / "x.part", "two")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "x"), str(step)]
    done = subprocess.run(command, check=False, cwd=Path(__file__).resolve().parents[1])
    assert done.returncode == (9 if step < 2 else 0)
    held = {path.name: (path / "a").read_text() for path in tmp_path.iterdir() if path.is_dir()}
    assert "two" in (held["x"], held.get("x.part"))
