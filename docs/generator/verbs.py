"""docs/reference/command-line.md: every verb with its arguments and options, from the command line itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from docs.generator.text import wrapped
from viewfold.cli import app

INTRODUCTION = """\
# Command line

Every verb, as `viewfold VERB --help` has it. An error that a user can cause is one line and exit code 2; Ctrl-C ends
with 130, and the same command goes on from the last finished stage or checkpoint. `python -m viewfold.cli` is the same
program.
"""


def page() -> str:
    """The whole page."""
    root = typer.main.get_command(app)
    return "\n".join([INTRODUCTION, *(_section(words, command) for words, command in verbs(root))])


def verbs(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each verb below `command` that does something by itself: its words, and itself."""
    for name, child in getattr(command, "commands", {}).items():
        yield (*words, name), child
        yield from verbs(child, (*words, name))


def _section(words: tuple[str, ...], command: Any) -> str:
    name = "-".join(words)
    lines = [f"{'#' * min(len(words) + 1, 3)} viewfold {' '.join(words)}\n", wrapped(" ".join(command.help.split()))]
    if len(words) == 1:
        lines.append(f"How to use it: [{name}](../verbs/{name}.md).\n")
    if hasattr(command, "commands"):
        below = ", ".join(f"[{child}](#viewfold-{name}-{child})" for child in command.commands)
        return "\n".join([*lines, wrapped(f"Verbs: {below}.")])
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    usage = " ".join(["viewfold", *words, *map(_word, arguments), *(["[OPTIONS]"] if options else [])])
    lines += [f"`{usage}`\n", *map(_argument, arguments), *map(_option, options)]
    return "\n".join([*lines, ""])


def _word(argument: Any) -> str:
    """An argument as the usage line has it."""
    word: str = argument.metavar or argument.name.upper() + ("..." if argument.nargs < 0 else "")
    return word if argument.required or word.startswith("[") else f"[{word}]"


def _argument(argument: Any) -> str:
    return _item(_word(argument), [], argument.help)


def _option(option: Any) -> str:
    names = ", ".join(option.opts) + "".join(f" / {other}" for other in option.secondary_opts)
    value = "" if option.is_flag else f" {option.metavar or option.name.upper()}"
    default = option.default if isinstance(option.default, int | float | str | Path) else None
    facts = ["required"] if option.required else []
    if default not in (None, "", False):
        facts.append(f"default `{names.split(' / ')[0] if default is True else default}`")
    if option.envvar:
        facts.append(f"or the variable `{option.envvar}`")
    return _item(names + value, facts, option.help)


def _item(label: str, facts: list[str], told: str | None) -> str:
    text = f"- **`{label}`**" + (f" ({'; '.join(facts)})" if facts else "") + (f": {told}" if told else "")
    return wrapped(text, indent="  ").rstrip("\n")
