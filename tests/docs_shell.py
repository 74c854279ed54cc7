"""Lines of a shell as the documentation shows them: words, what is set before them, where the output goes."""

import re
import shlex
from dataclasses import dataclass

_ASSIGNED = re.compile(r"(?P<name>[A-Za-z_]\w*)=(?P<value>.*)", flags=re.DOTALL)
_JOINS = ("|", "&&", ";", "&")
_TO_FILE = (">", ">>")
_PREFIX = re.compile(r"\$ |([\d*/,-]+ ){5}")  # a prompt, or when cron is to start the line


@dataclass(frozen=True)
class Command:
    """One program and its words."""

    line: int
    """Within the block, counted from 0."""
    words: tuple[str, ...]
    variables: tuple[tuple[str, str], ...] = ()
    """Set before the words: NAME=VALUE program ..."""
    output: str = ""
    """The file after `>`."""
    piped: bool = False
    """Reads what the command before it prints."""

    @property
    def program(self) -> str:
        """The first word."""
        return self.words[0]

    def __str__(self) -> str:
        return shlex.join(self.words)


def commands(text: str) -> list[Command]:
    """The commands of a block; lines that end with a backslash go on, and `#` begins a comment.

    Raises:
        ValueError: a line that is no command of the few forms that are known here.
    """
    found: list[Command] = []
    number = 0
    lines = text.splitlines()
    while number < len(lines):
        start, whole = number, lines[number]
        while whole.endswith("\\") and number + 1 < len(lines):
            number += 1
            whole = whole[:-1] + lines[number]
        found.extend(_of_line(start, _PREFIX.sub("", whole.strip()).replace(" 2>&1", "")))
        number += 1
    return found


def _of_line(number: int, line: str) -> list[Command]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="<>|&;")
    lexer.whitespace_split = True
    found: list[Command] = []
    words: list[str] = []
    piped = False
    for token in [*lexer, ";"]:
        if token not in _JOINS:
            words.append(token)
            continue
        if words:
            found.append(_command(number, words, piped=piped))
        words, piped = [], token == "|"
    return found


def _command(number: int, words: list[str], *, piped: bool) -> Command:
    variables = []
    while words and (assigned := _ASSIGNED.fullmatch(words[0])):
        variables.append((assigned["name"], assigned["value"]))
        words = words[1:]
    output = ""
    place = next((place for place, word in enumerate(words) if word in _TO_FILE), None)
    if place is not None:
        words, (output, *more) = words[:place], words[place + 1 :]
        words = [*words, *more]
    if not words or {"<", "<<", *_TO_FILE} & set(words):
        raise ValueError(f"a line that is no command: {' '.join(words) or variables}")
    return Command(number, tuple(words), tuple(variables), output, piped)
