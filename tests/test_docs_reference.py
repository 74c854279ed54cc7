"""The generated pages say what the code says: every setting, verb, request and public name."""

import re
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path

import pytest
import typer

import viewfold
from docs.generator.__main__ import pages
from docs.generator.configuration import page
from docs.generator.source import Package
from docs.generator.verbs import verbs
from viewfold.cli import app
from viewfold.config import Config

DOCS = Path(__file__).resolve().parents[1] / "docs"
CONFIGURATION = (DOCS / "reference" / "configuration.md").read_text(encoding="utf-8")
VERBS = list(verbs(typer.main.get_command(app)))


@pytest.fixture(scope="module")
def package() -> Package:
    return Package()


def test_the_committed_pages_are_what_the_generator_makes(package: Package) -> None:
    made = pages(package)
    stale = [path for path, text in made.items() if (DOCS / path).read_text(encoding="utf-8") != text]
    assert not stale, "run `python -m docs.generator`"
    assert {path.name for path in (DOCS / "reference").iterdir()} == {Path(path).name for path in made}


def section(name: str) -> str:
    found = re.search(rf"^### {name}\n(.*?)(?=^##|\Z)", CONFIGURATION, flags=re.DOTALL | re.MULTILINE)
    assert found, f"docs/reference/configuration.md has no {name}"
    return found[1]


def test_every_configuration_of_the_source_is_on_the_page() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in Path(viewfold.__path__[0]).rglob("*.py"))
    bases = {
        name: set(re.findall(r"\w+", listed)) for name, listed in re.findall(r"^class (\w+)\(([^)]*)\)", text, re.M)
    }
    found = {"Config"}
    while more := {name for name, of in bases.items() if of & found} - found:
        found |= more
    public = {name for name in found - {"Config"} if not name.startswith("_")}
    assert len(public) > 100
    assert set(re.findall(r"^### (\w+)", CONFIGURATION, re.M)) == public


def subclasses(kind: type) -> set[type]:
    children: list[type] = kind.__subclasses__()
    return {kind, *(below for child in children for below in subclasses(child))}


@pytest.mark.slow
def test_every_field_of_a_recipes_configurations_is_on_the_page() -> None:
    import_module("viewfold.jobs.recipes")
    loaded = {kind for kind in subclasses(Config) if kind.__module__.startswith("viewfold.") and is_dataclass(kind)}
    public = {kind for kind in loaded if not kind.__name__.startswith("_")}
    assert len(public) > 50
    for kind in public:
        own = {field.name for field in fields(kind)} & set(vars(kind).get("__annotations__", {}))
        assert own == set(re.findall(r"^- \*\*`(\w+)`", section(kind.__name__), re.M)), kind


def test_a_setting_is_shown_with_type_default_range_and_sentence() -> None:
    assert "- **`replay_share`** (`float`; default `0.5`; 0 to 0.95): Share of old data" in section("NightlyConfig")
    assert "- **`name`** (`str`; required): Also the default run folder" in section("RunConfig")
    assert "One of these, picked by `name`:\n\n- `" in section("MethodConfig")
    assert "- `linear`: [LinearPredictorConfig](#linearpredictorconfig)" in section("PredictorConfig")


def test_a_configuration_that_nothing_leads_to_is_an_error(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(package.configs, "Forgotten", package.configs["RunConfig"])
    with pytest.raises(LookupError, match="Forgotten"):
        page(package)


@pytest.mark.parametrize("words", [words for words, _ in VERBS], ids=" ".join)
def test_every_verb_is_shown_on_a_page_of_its_own_or_of_its_group(words: tuple[str, ...]) -> None:
    text = (DOCS / "verbs" / f"{words[0]}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# viewfold {words[0]}\n")
    assert f"](../reference/command-line.md#viewfold-{words[0]})" in text
    assert f"viewfold {' '.join(words)}" in text or words == ("index", "recipe")  # `viewfold index RECIPE` is that one


def test_no_page_describes_a_verb_that_is_gone() -> None:
    assert {path.stem for path in (DOCS / "verbs").iterdir()} == {words[0] for words, _ in VERBS}
