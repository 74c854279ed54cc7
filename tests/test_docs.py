"""What the documentation shows would work as it stands there; `test_docs_run.py` does it."""

import re
from collections import Counter
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote

import pytest
import typer.main
from docs_blocks import CHECKOUT, LANGUAGES, PAGES, SHELL, Block, blocks_of, indented_blocks, name_of, prose
from docs_lines import REASONS
from docs_reader import Reader
from docs_sandbox import write_settings
from docs_shell import commands

from viewfold.cli import app

RUN_AT_LEAST = 0.5
"""Of all commands and blocks that could be run: what is shown is mostly done, and not excused."""
every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def blocks(page: Path) -> list[Block]:
    return blocks_of(name_of(page), page.read_text(encoding="utf-8"))


@cache
def checked(page: Path) -> list[tuple[str, str]]:
    """Everything on the page checked and nothing run; where each thing stands, and why it is not run."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.chdir(folder)
        write_settings(Path(folder))
        reader = Reader(Path(folder), stack, services=None)
        for block in blocks(page):
            reader.read(block)
        return reader.outcomes


@every_page
def test_every_block_says_its_language_and_its_reason_is_a_known_one(page: Path) -> None:
    assert [f"{name_of(page)}:{line}" for line in indented_blocks(page.read_text("utf-8"))] == []
    assert [block.where for block in blocks(page) if block.language not in LANGUAGES] == []
    reasons = {block.not_run for block in blocks(page)} - {""}
    assert {reason for reason in reasons if reason.partition(":")[0] not in REASONS} == set()


@every_page
def test_commands_settings_and_imports_are_ones_that_exist(page: Path) -> None:
    shown = [block for block in blocks(page) if block.language not in ("text", "mermaid")]
    assert len(checked(page)) >= len(shown)


@every_page
def test_plain_text_hides_no_command(page: Path) -> None:
    root: Any = typer.main.get_command(app)
    verbs = "|".join(root.commands)
    command = re.compile(rf"\s*(\$ )?(viewfold ({verbs})|curl|docker|export|kubectl|make|pip|python)\s+\S")
    lines = [(one.where, line) for one in blocks(page) if one.language == "text" for line in one.text.splitlines()]
    assert [(where, line) for where, line in lines if command.match(line)] == []


def test_most_of_what_is_shown_is_run() -> None:
    outcomes = [outcome for page in PAGES for outcome in checked(page)]
    reasons = Counter(reason.partition(":")[0] for _, reason in outcomes)
    assert len(outcomes) > 100
    assert reasons[""] / len(outcomes) >= RUN_AT_LEAST, reasons.most_common()


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)", prose(page.read_text(encoding="utf-8")))
    broken = []
    for target in targets:
        place, _, anchor = unquote(target).partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        other = (page.parent / place).resolve() if place else page
        if not other.exists() or (anchor and other.suffix == ".md" and anchor not in anchors(other)):
            broken.append(target)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """What a link into the page may name: headings, as both GitHub and MkDocs call them, and what has an id."""
    text = page.read_text(encoding="utf-8")
    found = set(re.findall(r"(?:id=\"|name=\"|\{#)([\w.-]+)", text))
    for heading in re.findall(r"^#+ +(.+?)(?: *\{#[^}]*\})?$", prose_of_headings(text), flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        kept = re.sub(r"[^\w\s-]", "", plain).strip().lower()
        github, mkdocs = kept.replace(" ", "-"), re.sub(r"[-\s]+", "-", kept)
        if github == mkdocs:
            found.add(github)
    return found


def prose_of_headings(text: str) -> str:
    """Without fenced blocks, whose comments look like headings."""
    return re.sub(r"^ *(`{3,}).*?^ *\1 *$", "", text, flags=re.MULTILINE | re.DOTALL)


def block(language: str, text: str, not_run: str = "") -> Block:
    return Block("page.md", 1, language, text, not_run)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (block("sh", "viewfold rum smoke\n"), "rum"),
        (block("sh", "viewfold serve runs/mine --prot 1\n"), "--prot"),
        (block("sh", "viewfold data import PHOTOS\n"), "out"),
        (block("sh", "viewfold run smoke pretrain.stepps=3\n"), "stepps"),
        (block("sh", "viewfold run smoek\n", not_run="takes minutes"), "smoek"),
        (
            block("sh", "viewfold submit run smoek.yaml --address http://head:8265\n", not_run="needs a cluster"),
            "smoek",
        ),
        (block("sh", "make tset\n"), "tset"),
        (block("sh", "make bench SUITE=nothing\n"), "nothing"),
        (block("sh", "pip install 'viewfold[trian]'\n"), "trian"),
        (block("sh", "python -m benchmarks.nothing\n"), "nothing"),
        (block("sh", "nothing --known\n"), "nothing"),
        (block("yaml", "name: mine\nrecipe: smoke\nstesp: 3\n"), "stesp"),
        (block("python", "from viewfold.retrieval import selcet\n", not_run="takes minutes"), "selcet"),
        (block("python", "x = (\n", not_run="takes minutes"), "never closed"),
        (block("json", "{'a': 1}\n"), "property name"),
    ],
    ids=lambda value: value.text.strip() if isinstance(value, Block) else "",
)
def test_what_would_not_work_is_found_where_nothing_is_run_too(
    wrong: Block, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_settings(tmp_path)
    with ExitStack() as stack, pytest.raises(Exception, match=why):
        Reader(tmp_path, stack, services=None).read(wrong)


def test_a_page_is_taken_apart_as_it_is_shown() -> None:
    page = (
        "- item\n\n      more of the item\n\n1. one\n\n    ```sh\n    viewfold doctor # why\n    ```\n\n"
        "text\n\n    code\n\n"
        '<!-- not run: needs a GPU -->\n```python\n1\n```\n\n```{.sh data-not-run="takes minutes"}\nmake test\n```\n'
    )
    assert list(indented_blocks(page)) == [13]
    assert [(one.language, one.text, one.not_run) for one in blocks_of("page.md", page)] == [
        ("sh", "viewfold doctor # why\n", ""),
        ("python", "1\n", "needs a GPU"),
        ("sh", "make test\n", "takes minutes"),
    ]
    text = "A=1 viewfold run x \\\n  'b=[1, 2]' | cat > out  # said\n\nexport B=2 && viewfold doctor\n"
    text += "0 2 * * * viewfold doctor >> log 2>&1\n"
    assert [(one.line, one.words, one.output, one.piped) for one in commands(text)] == [
        (0, ("viewfold", "run", "x", "b=[1, 2]"), "", False),
        (0, ("cat",), "out", True),
        (3, ("export", "B=2"), "", False),
        (3, ("viewfold", "doctor"), "", False),
        (4, ("viewfold", "doctor"), "log", False),
    ]


def test_the_pages_are_found() -> None:
    names = set(map(name_of, PAGES))
    assert {"README.md", "CONTRIBUTING.md", "docs/formats.md", "docs/notebook.md"} <= names
    shown = [block for page in PAGES for block in blocks(page) if block.language in SHELL]
    assert len(shown) > 20
    assert all((CHECKOUT / name).is_file() for name in names)
