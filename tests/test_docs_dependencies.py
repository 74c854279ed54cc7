"""The page on dependencies names what `pyproject.toml` names, with a licence and a place each."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([^`]+)` \| (.*) \|$", PAGE, flags=re.MULTILINE)


def declared() -> list[str]:
    """Names of all packages that the project asks for, without extras and versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return [re.split(r"[\[<>=~! ;]", wanted)[0] for group in groups for wanted in group]


def test_the_page_names_exactly_the_packages_of_the_project() -> None:
    names = [name for name, _ in ROWS]
    assert sorted(names) == sorted(set(declared()) - {"viewfold"})


def test_every_package_has_a_licence_a_reason_and_a_place() -> None:
    for name, row in ROWS:
        cells = [cell.strip() for cell in row.split(" | ")]
        assert len(cells) in (3, 4), name  # what only tests use has no column of what importing it costs
        assert all(cells), name


def test_the_places_that_it_names_are_there() -> None:
    for name, row in ROWS:
        where = row.split(" | ")[2]
        for place in re.findall(r"`([^`]+\.(?:py|yml)|[a-z_/]+/)`", where):
            roots = (ROOT / "viewfold", ROOT)
            assert any(any(root.glob(place)) for root in roots), f"{name}: {place}"
