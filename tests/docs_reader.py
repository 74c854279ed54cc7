"""A reader of the documentation who does what a page says, from top to bottom, in one folder."""

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

from docs_blocks import SHELL, Block
from docs_lines import Planner
from docs_sandbox import SERVED, SETTINGS, call, meant
from docs_shell import Command, commands
from docs_yaml import check_json, check_yaml
from serve_process import service

ALLOWED = {"doctor": (0, 2), "drift": (0, 1), "promote": (0, 1)}
"""Exit codes with which a command answers what it was asked, and has not failed."""
_SUBSTITUTED = re.compile(r"\$\((?P<command>.*)\)", flags=re.DOTALL)
_NAMED = re.compile(r"# (?P<name>[\w-]+\.ya?ml)\b")


@dataclass
class Services:
    """Running services, each started when a page first asks for it."""

    stack: ExitStack
    urls: dict[tuple[str, ...], str] = field(default_factory=dict)

    def url(self, words: Sequence[str], log: Path) -> str:
        """The address of `viewfold serve` with these words, on a free port."""
        key = tuple(_unbound(list(words)))
        if key not in self.urls:
            self.urls[key] = self.stack.enter_context(service(key[0], key[1:], log=log)).url
        return self.urls[key]


@dataclass
class Reader:
    """The state of one page: Python's names, the service that was started, the programs' environment."""

    folder: Path
    stack: ExitStack
    services: Services | None
    """None: nothing is run, everything is checked."""
    planner: Planner = field(default_factory=Planner)
    names: dict[str, object] = field(default_factory=dict)
    url: str = ""
    told: str = ""
    """What the last command printed."""
    outcomes: list[tuple[str, str]] = field(default_factory=list)
    """Of each command and block: where it stands, and why it was not run (empty: it was)."""

    def read(self, block: Block) -> None:
        """Do what the block says, or check it where it says why it is not to be run.

        Raises:
            Exception: it does not work; the message begins with where it stands.
        """
        try:
            if block.language in SHELL:
                self._shell(block)
            elif block.language == "python":
                self._python(block)
            elif block.language == "yaml":
                self._yaml(block)
            elif block.language == "json":
                check_json(block.text)
                self.outcomes.append((block.where, ""))
        except Exception as error:
            error.add_note(f"at {block.where}")
            raise

    def _shell(self, block: Block) -> None:
        for command in commands(block.text):
            where = f"{block.page}:{block.line + command.line}"
            try:
                planner = replace(self.planner) if block.not_run else self.planner
                checked = planner.reason(command)
                reason = block.not_run or checked
                self.outcomes.append((where, reason))
                if not reason and self.services is not None:
                    self._run(command)
            except (Exception, SystemExit) as error:
                raise AssertionError(f"{where}: {command}: {error or type(error).__name__}") from error

    def _run(self, command: Command) -> None:
        words = [self._filled(word) for word in command.words]
        with ExitStack() as before:
            for name, value in command.variables:
                before.enter_context(_variable(name, self._filled(value)))
            if words[0] == "export":
                for name, _, value in (word.partition("=") for word in words[1:]):
                    self.stack.enter_context(_variable(name, self._filled(value)))
            elif words[0] == "viewfold":
                self._viewfold(words[1:], command)
            else:
                self._program(words, command)

    def _viewfold(self, words: list[str], command: Command) -> None:
        if words[0] == "serve" and "--print-config" not in words:
            assert self.services is not None
            self.url = self.services.url(words[1:], self.folder / "runs" / "service.log")
            return
        words = _aside(words)
        if not command.output:
            call(*words, allowed=ALLOWED.get(words[0], (0,)))
            return
        with _written(self.folder / command.output) as file, redirect_stdout(file):
            call(*words, allowed=ALLOWED.get(words[0], (0,)))

    def _program(self, words: list[str], command: Command) -> None:
        if words[0] == "curl":
            words = ["curl", "--fail-with-body", "--max-time", "120", *words[1:]]
        words[0] = sys.executable if words[0] == "python" else words[0]
        ended = subprocess.run(
            words, capture_output=True, text=True, input=self.told if command.piped else None, timeout=300, check=False
        )
        self.told = ended.stdout
        assert ended.returncode == 0, f"exit code {ended.returncode}: {ended.stdout[-2000:]}{ended.stderr[-2000:]}"
        if command.output:
            with _written(self.folder / command.output) as file:
                file.write(ended.stdout)

    def _filled(self, word: str) -> str:
        """The word as the shell would hand it over, with the reader's own names and the address of the service."""
        word = meant(word)
        if found := _SUBSTITUTED.fullmatch(word):
            program, *words = shlex.split(found["command"])
            assert program == "python", f"$({program} ...): only python is known here"
            return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True).stdout.strip()
        return os.path.expandvars(SERVED.sub(self.url, word) if self.url else word)

    def _python(self, block: Block) -> None:
        text = meant(block.text)
        tree = ast.parse(text)
        self.outcomes.append((block.where, block.not_run))
        if self.services is None or block.not_run:
            _check_imports(tree)
            return
        text = SERVED.sub(self.url, text) if self.url else text
        exec(compile("\n" * (block.line - 1) + text, block.page, "exec"), self.names)

    def _yaml(self, block: Block) -> None:
        check_yaml(block.text)
        self.outcomes.append((block.where, ""))
        named = _NAMED.match(block.text)
        if named and named["name"] not in SETTINGS:
            (self.folder / named["name"]).write_text(block.text, encoding="utf-8")


def _check_imports(tree: ast.Module) -> None:
    """The names that are imported from this project exist."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "viewfold":
            module = importlib.import_module(node.module or "")
            missing = [name.name for name in node.names if not hasattr(module, name.name)]
            assert not missing, f"{node.module} has no {', '.join(missing)}"


def _aside(words: list[str]) -> list[str]:
    """An import into the folder of shards that the reader has goes beside it."""
    own = words[:2] == ["data", "import"] and words[-2:] == ["--out", "shards"]
    return [*words[:-1], "shards-again"] if own else words


def _unbound(words: list[str]) -> list[str]:
    """Without a port of its own: the service takes a free one."""
    for option in ("--port", "-p"):
        with suppress(ValueError):
            place = words.index(option)
            words = words[:place] + words[place + 2 :]
    return words


@contextmanager
def _written(path: Path) -> Iterator[TextIO]:
    """The file after `>`; one that the reader has already stays as it is."""
    if path.name in SETTINGS:
        path = path.with_suffix(".shown")
    with path.open("w", encoding="utf-8") as file:
        yield file


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
