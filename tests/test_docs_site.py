"""The documentation as a site: it builds without a warning, and asks no other machine for anything."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from docs.generator.site import on_page_markdown

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    ended = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return folder


class Fetched(HTMLParser):
    """What a browser loads by itself to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        loads = tag in ("script", "img", "iframe", "source") or (tag == "link" and told.get("rel") != "canonical")
        self.found += [value for name in ("src", "href") if loads and (value := told.get(name))]


@pytest.mark.slow
def test_every_page_is_there_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = [path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")]
    assert len(pages) > 50
    for page in pages:
        reader = Fetched()
        reader.feed((site / page).read_text(encoding="utf-8"))
        assert reader.found
        far = [target for target in reader.found if re.match(r"(?:https?:)?//", target)]
        assert far == [], page
        assert [target for target in reader.found if not (site / page).parent.joinpath(target).exists()] == [], page


@pytest.mark.slow
def test_the_site_holds_no_source_and_can_be_searched(site: Path) -> None:
    assert not list(site.rglob("*.py"))
    assert "pretrained encoder" in (site / "search" / "search_index.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("see [the notice](../NOTICE)", "see the notice (`NOTICE`)"),
        ("see [benchmarks/scale.py](../benchmarks/scale.py)", "see benchmarks/scale.py"),
        ("see [formats](../docs/formats.md#shard)", "see [formats](../docs/formats.md#shard)"),
    ],
)
def test_links_out_of_the_documentation_become_names_of_files(line: str, shown: str) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="stream.md"))
    config = SimpleNamespace(docs_dir=str(ROOT / "docs"))
    assert on_page_markdown(line, page=page, config=config) == shown
