"""The examples in the docstrings of what `import viewfold as vf` offers, run as they stand there."""

import doctest
import sys
from pathlib import Path

import numpy as np
import pytest
from indexed_run import write_run
from tiny import draw, encode, write_images

import viewfold as vf

ELSEWHERE = {
    "Client": "talks to a server: docs/serve.md",
    "EvaluateConfig": "in the example of evaluate",
    "METHODS": "a dict: docs/notebook.md",
    "POLICIES": "a dict: docs/notebook.md",
}
"""Names without an example of their own, and why."""
HEAVY = {"evaluate"}  # fits heads: seconds


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the docstring of `viewfold` says lies beside its examples."""
    folder = tmp_path_factory.mktemp("place")
    write_run(folder / "runs" / "mine", write_images(folder / "shards"))
    picture = draw(1, np.zeros(3), ground=(40, 90, 60), ink=(200, 80, 20), size=64)
    (folder / "PHOTO.png").write_bytes(encode(picture, "PNG"))
    return folder


def run_examples(name: str, thing: object) -> int:
    """How many lines of example the docstring of `thing` holds; one that does otherwise fails with both answers."""
    # As a module's own lines do, examples may use what it imports; `vf` is the package itself.
    module = sys.modules[getattr(thing, "__module__", "viewfold")]
    runner, said = doctest.DocTestRunner(), list[str]()
    for test in doctest.DocTestFinder(recurse=False).find(thing, name, globs={**vars(module), "vf": vf}):
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)
    return runner.tries


def test_the_package_shows_the_way_from_an_image_to_demonstrations(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    assert run_examples("viewfold", vf) >= 5


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in HEAVY else ())
        for name in vf.__all__
        if name not in ELSEWHERE
    ],
)
def test_the_example_of_a_name_is_true(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    assert run_examples(name, getattr(vf, name)) >= 2
