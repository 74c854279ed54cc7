"""The page on notebooks, run as it stands there, on shipped data."""

import re
from pathlib import Path

import numpy as np
import pytest
from indexed_run import write_run
from tiny import draw, encode

from viewfold.jobs.data import locate

PAGE = Path(__file__).resolve().parents[1] / "docs" / "notebook.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture
def beside_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with what the page says lies there."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "mine", locate(("demo:emoji",)))
    picture = draw(1, np.zeros(3), ground=(40, 90, 60), ink=(200, 80, 20), size=64)
    (tmp_path / "PHOTO.png").write_bytes(encode(picture, "PNG"))
    return tmp_path


@pytest.mark.heavy
@pytest.mark.slow
def test_the_page_runs_from_top_to_bottom(beside_a_run: Path) -> None:
    names: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block, PAGE.name, "exec"), names)
    assert (beside_a_run / "card" / "card.html").is_file()
    assert (beside_a_run / "bundle" / "bundle.json").is_file()
