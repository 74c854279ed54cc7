"""The pages of the documentation and the code blocks on them."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [*(CHECKOUT / "docs").rglob("*.md"), CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md"],
    key=lambda page: page.as_posix(),
)
"""Every page there is, those that are written tomorrow too."""
SHELL = ("sh", "bash", "shell", "console")
LANGUAGES = (*SHELL, "python", "yaml", "json", "text", "mermaid")

_FENCE = re.compile(r"^(?P<indent> *)(?P<marks>`{3,}|~{3,}) *\.?(?P<language>[\w+-]*) *(?P<rest>[^`]*)$")
_BRACED = re.compile(r"^\{ *\.?(?P<language>[\w+-]+)(?P<rest>.*)\}$")
_COMMENT = re.compile(r"^ *<!-- not run: (?P<reason>.+?) -->\s*$")
_ATTRIBUTE = re.compile(r"(?:data-)?not-run=[\"'](?P<reason>[^\"']+)[\"']")
_CONTAINER = re.compile(r"^ {0,3}([-*+] |\d+\. |!!! |\?\?\?\+? |=== )")


@dataclass(frozen=True)
class Block:
    """A code block."""

    page: str
    """Relative to the checkout."""
    line: int
    """Of its first line of text, counted from 1."""
    language: str
    """As the fence says it; empty where it says nothing."""
    text: str
    not_run: str = ""
    """Why the block cannot be run by a test, as the line before it or its fence says."""

    @property
    def where(self) -> str:
        """What an editor finds it by."""
        return f"{self.page}:{self.line}"


def name_of(page: Path) -> str:
    """The page, relative to the checkout."""
    return page.relative_to(CHECKOUT).as_posix()


def blocks_of(page: str, text: str) -> list[Block]:
    """The fenced blocks of a page, in their order.

    The reason why a block is not run stands in a comment on the line before the fence, `<!-- not run: REASON -->`,
    or in the fence as `not-run="REASON"`.
    """
    found, lines = [], text.splitlines()
    number = 0
    while number < len(lines):
        opening = _FENCE.match(lines[number])
        if opening is None:
            number += 1
            continue
        end = _end(lines, number, opening["marks"])
        if end is None:
            raise ValueError(f"{page}:{number + 1}: this fence is never closed")
        language, rest = _told(opening)
        said = _COMMENT.match(_before(lines, number)) or _ATTRIBUTE.search(rest)
        body = textwrap.dedent("\n".join(lines[number + 1 : end])) + "\n"
        found.append(Block(page, number + 2, language, body, said["reason"] if said else ""))
        number = end + 1
    return found


def indented_blocks(text: str) -> Iterator[int]:
    """Numbers of the lines that begin a block of code by being indented, which no fence gives a language."""
    fence, before, container = "", "", False
    inside = False
    for number, line in enumerate(text.splitlines(), start=1):
        marks = re.match(r" *(`{3,}|~{3,})", line)
        if fence:
            fence = "" if line.strip() == fence else fence
        elif marks:
            fence = marks[1]
        elif line.startswith("    ") and not container and not before.strip() and not inside:
            yield number
            inside = True
        elif line.strip() and not line.startswith("  "):
            container, inside = _CONTAINER.match(line) is not None, False
        before = line


def prose(text: str) -> str:
    """The page without its fenced blocks and inline code, whose brackets are no links."""
    kept, fence = [], ""
    for line in text.splitlines():
        marks = re.match(r" *(`{3,}|~{3,})", line)
        if fence:
            fence = "" if line.strip() == fence else fence
        elif marks:
            fence = marks[1]
        else:
            kept.append(line)
    return re.sub(r"(`+).+?\1", "", "\n".join(kept), flags=re.DOTALL)


def _told(opening: re.Match[str]) -> tuple[str, str]:
    braced = _BRACED.match(opening["rest"].strip())
    if opening["language"] or braced is None:
        return opening["language"], opening["rest"]
    return braced["language"], braced["rest"]


def _end(lines: list[str], start: int, marks: str) -> int | None:
    for number in range(start + 1, len(lines)):
        if lines[number].strip() == marks:
            return number
    return None


def _before(lines: list[str], number: int) -> str:
    """The nearest line above that is not blank."""
    return next((line for line in reversed(lines[:number]) if line.strip()), "")
