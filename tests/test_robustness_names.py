"""Names that look alike, and names that a shell or a disk writes in its own way."""

import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from tiny import colour, draw, encode

from viewfold.errors import InvalidInput
from viewfold.pipeline.importer import import_folder
from viewfold.pipeline.verify import verify

ROOT = Path(__file__).resolve().parents[1]
LETTER = "\N{LATIN SMALL LETTER E WITH ACUTE}"


def test_a_class_that_is_spelled_in_two_ways_is_one_class(tmp_path: Path) -> None:
    for number, name in enumerate((LETTER, unicodedata.normalize("NFD", LETTER))):
        write(tmp_path / "in" / name, f"{number}.png", number)
    manifest = import_folder(tmp_path / "in", tmp_path / "out")
    assert list(manifest.labels) == [LETTER]
    assert len(manifest) == 2


def test_a_class_of_a_csv_is_that_of_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "in", "a.png", 0)
    (tmp_path / "t.csv").write_text(f"image,label\na.png,{unicodedata.normalize('NFD', LETTER)}\n", encoding="utf-8")
    manifest = import_folder(tmp_path / "in", tmp_path / "out", csv=tmp_path / "t.csv", columns={"label": "label"})
    assert list(manifest.labels) == [LETTER]


def test_signs_that_mean_something_to_others_may_stand_in_paths_and_classes(tmp_path: Path) -> None:
    classes = ["a=b", "[x]", "c%d", "it's", "\N{GRINNING FACE}", "\N{HEBREW LETTER ALEF} b"]
    for number, name in enumerate(classes):
        write(tmp_path / "in [1]=%s" / name, "an image.png", number)
    manifest = import_folder(tmp_path / "in [1]=%s", tmp_path / "out {1}=%d [a]")
    assert sorted(manifest.labels) == sorted(classes)
    assert not verify(manifest)


def write(folder: Path, name: str, number: int) -> None:
    folder.mkdir(parents=True)
    picture = draw(number % 3, np.zeros(3), ground=colour(0.1, 0.4), ink=colour(number / 7, 0.9), size=32)
    (folder / name).write_bytes(encode(picture, "PNG"))


@pytest.mark.skipif(sys.platform != "linux", reason="paths of other systems are always UTF-8")
def test_a_shell_without_utf_8_gets_a_line_that_says_what_to_set(tmp_path: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    write(tmp_path / "in", "a.png", 0)
    import_folder(tmp_path / "in", tmp_path / LETTER)
    command = [sys.executable, "-m", "viewfold.cli", "data", "stats", str(tmp_path / LETTER)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert ended.returncode == 2
    assert ended.stderr.endswith(
        "cannot be written as utf-8 by this shell's settings; set PYTHONUTF8=1 and try again\n"
    )
    assert len(ended.stderr.splitlines()) == 1


def test_a_folder_is_no_image_to_ask_about(tmp_path: Path) -> None:
    from viewfold.jobs.ask import read_query

    with pytest.raises(InvalidInput, match="is a folder; give the path of an image"):
        read_query(tmp_path)


def test_the_demo_is_not_made_among_other_things(tmp_path: Path) -> None:
    from viewfold.jobs.demo import run_demo

    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InvalidInput, match="holds other things, and no demo"):
        run_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
