"""The public surface is a list: `__all__` of a folder names what its `__init__` takes from the folder's own files."""

from importlib import import_module
from inspect import ismodule
from pathlib import Path
from pkgutil import iter_modules

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "viewfold"
FOLDERS = sorted(
    ".".join(("viewfold", *path.parent.relative_to(PACKAGE).parts)) for path in PACKAGE.glob("*/**/__init__.py")
)


@pytest.mark.parametrize("name", FOLDERS)
def test_all_names_what_the_folder_offers(name: str) -> None:
    module = import_module(name)
    held = {n: value for n, value in vars(module).items() if not n.startswith("_") and not ismodule(value)}
    own = {n for n, value in held.items() if str(getattr(value, "__module__", "")).startswith(name)}
    listed = getattr(module, "__all__", [])
    assert own <= set(listed) <= set(held)
    assert len(set(listed)) == len(listed)


@pytest.mark.parametrize("name", FOLDERS)
def test_no_public_name_hides_a_file(name: str) -> None:
    module = import_module(name)
    assert not set(getattr(module, "__all__", [])) & {file.name for file in iter_modules(module.__path__)}


def test_the_five_folders_are_there() -> None:
    assert {f"viewfold.{name}" for name in ("augment", "jobs", "pipeline", "retrieval", "ssl")} <= set(FOLDERS)
