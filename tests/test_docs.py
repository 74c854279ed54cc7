"""What the documentation shows runs as it stands there."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCKS = re.findall(r"```python\n(.*?)```", (DOCS / "views.md").read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_python_shown_about_views_runs(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block, "views.md", "exec"), {})
    assert not capsys.readouterr().err


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []
