"""Whether `viewfold` would accept a command line: its verb, options and words, and the settings behind them.

Nothing is run: what is asked are the parser of the real command line and the typed configurations.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer.main
from typer import Exit

from viewfold.cli import app
from viewfold.config import is_setting, load, overridden, override, parse

Params = Mapping[str, Any]


def check(words: Sequence[str]) -> tuple[str, Params]:
    """The verb (`data import`) and the parameters of a command line, the words after `viewfold`.

    Raises:
        Exception: what the command line itself would refuse, with the same message.
    """
    command: Any = typer.main.get_command(app)
    context, name, words = None, "viewfold", list(words)
    verb: list[str] = []
    try:
        while True:
            context = command.make_context(name, list(words), parent=context)
            if not hasattr(command, "commands"):
                break
            rest = [*context._protected_args, *context.args]
            name, command, words = command.resolve_command(context, rest)
            verb.append(name)
    except Exit:  # --help and --version say what they have to say, and leave
        return " ".join(verb), {}
    _check_settings(" ".join(verb), context.params)
    return " ".join(verb), context.params


def trains(verb: str, params: Params) -> bool:
    """Whether the command goes through a recipe or a night: minutes, and a Ray of its own."""
    if verb == "evaluate":
        return not _shards(params)
    return verb in RECIPE_VERBS or verb in ("icl-eval", "nightly", "demo")


def _check_settings(verb: str, params: Params) -> None:
    checker = CHECKERS.get(verb)
    if checker is not None:
        checker(params)


def _shards(params: Params) -> list[str]:
    return [word for word in params["words"] or [] if not is_setting(word)]


def _recipe(params: Params) -> None:
    from viewfold.jobs.recipes import find

    find(params.get("recipe") or params["name"], params["overrides"] or [])


def _icl(params: Params) -> None:
    from viewfold.jobs.icl_recipes import find

    find(params["recipe"], params["overrides"] or [])


def _evaluate(params: Params) -> None:
    from viewfold.jobs.evaluate_config import EvaluateConfig
    from viewfold.jobs.recipes import find

    settings = [word for word in params["words"] or [] if is_setting(word)]
    if _shards(params):
        override(EvaluateConfig(), settings)
    else:
        find(params["what"], settings)


def _nightly(params: Params) -> None:
    from viewfold.jobs.nightly_config import NightlyConfig

    load(NightlyConfig, params["config"], params["settings"] or [])


def _serve(params: Params) -> None:
    from viewfold.jobs.serve import ServeConfig
    from viewfold.jobs.serve_ray import RayServeConfig

    data = {"source": params["source"], "home": str(params["home"]), "encoder": params["encoder"]}
    if not params["ray"]:
        assert not params["print_config"], "--print-config without --ray"
    parse(RayServeConfig if params["ray"] else ServeConfig, overridden(data, params["settings"] or []))


def _promote(params: Params) -> None:
    from viewfold.jobs.gates_config import GatesConfig

    override(GatesConfig(), params["settings"] or [])
    if params["gates"] is not None:
        load(GatesConfig, Path(params["gates"]))


def _drift(params: Params) -> None:
    from viewfold.jobs.drift import DriftConfig

    parse(DriftConfig, overridden({}, params["settings"] or []))


def _ask(params: Params) -> None:
    from viewfold.jobs.ask import read_settings

    read_settings({"select": {"k": params["k"]}}, params["settings"] or [])


def _submit(params: Params) -> None:
    check(params["words"])


def _names(params: Params) -> None:
    from viewfold.jobs.names import listing

    listing(params["what"])


RECIPE_VERBS = ("run", "pretrain", "adapt", "cluster", "embed", "mine", "index recipe")
CHECKERS: dict[str, Callable[[Params], None]] = {
    **dict.fromkeys((*RECIPE_VERBS, "recipe show"), _recipe),
    "icl-eval": _icl,
    "evaluate": _evaluate,
    "nightly": _nightly,
    "serve": _serve,
    "promote": _promote,
    "drift": _drift,
    "ask": _ask,
    "submit": _submit,
    "list": _names,
}
