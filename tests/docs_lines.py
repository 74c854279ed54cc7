"""What becomes of a command that the documentation shows: run as it stands, or checked alone, and then why.

Checked is every one. `viewfold` commands are parsed by the command line itself, with their recipes and settings;
of others the targets, modules and packages that they name have to exist.
"""

import importlib.util
import re
import tomllib
from dataclasses import dataclass

from docs_blocks import CHECKOUT
from docs_parsed import Params, check, trains
from docs_sandbox import CLIP, FINISHED, SERVED, meant
from docs_shell import Command

from viewfold.jobs.recipes import find

REASONS = (
    "takes minutes",
    "installs packages",
    "needs a cluster",
    "needs a download",
    "needs a GPU",
    "needs a model hub",
    "needs a model server",
    "needs a running service",
    "needs a tracking server",
    "needs an object store",
    "needs another package",
    "needs data of yours",
    "needs Docker",
    "needs Kubernetes",
    "needs the data packs",
    "one service is enough",
)
"""Every reason for which something is shown and not run; a page may go on after a colon with what exactly."""

FOREIGN = {
    "cd": "needs data of yours",
    "docker": "needs Docker",
    "git": "needs a download",
    "helm": "needs Kubernetes",
    "kubectl": "needs Kubernetes",
    "llama-server": "needs a model server",
    "mlflow": "needs a tracking server",
    "ray": "needs a cluster",
    "serve": "needs a cluster",
    "vllm": "needs a model server",
    "wget": "needs a download",
}
LOCAL = ("cat", "cp", "echo", "head", "ls", "mkdir", "mv", "python", "tail", "test", "wc")
CHECKED = ("make", "mkdocs", "pip", "pytest")
KNOWN = ("viewfold", "curl", "export", *LOCAL, *CHECKED, *FOREIGN)
"""The programs that a page may show."""

_STORE = re.compile(r"\b(s3|gs|hf)://|^https://")


@dataclass
class Planner:
    """Goes down a page: what a command does can depend on a service that an earlier one has started."""

    serving: bool = False

    def reason(self, command: Command) -> str:
        """Why the command is checked and not run; empty where it is run.

        Raises:
            Exception: it would not work: an unknown verb, option, recipe, setting, target, module or package.
        """
        words = tuple(meant(word) for word in command.words)
        if words[:2] == ("python", "-m") and words[2].split(".")[0] != "viewfold":
            return _module(words[2])
        if words[:2] == ("python", "-m"):
            words = ("viewfold", *words[3:])
        program = words[0].rpartition("/")[2]
        if program not in KNOWN:
            raise ValueError(
                f"{program}: a program that the documentation does not show elsewhere; tests/docs_lines.py"
            )
        if program == "viewfold":
            return self._viewfold(words[1:])
        if program == "curl":
            return "" if self.serving and any(SERVED.search(word) for word in words) else "needs a running service"
        if program == "make":
            return _target(words)
        if program == "pip":
            return _packages(words)
        return FOREIGN.get(program) or ("takes minutes" if program in CHECKED else "")

    def _viewfold(self, words: tuple[str, ...]) -> str:
        verb, params = check(words)
        if verb == "serve" and not params["print_config"]:
            if params["ray"]:
                return "needs a cluster"
            first, self.serving = not self.serving, True
            return "" if first else "one service is enough"
        if verb in ("submit", "drift"):
            return _far(verb, params, serving=self.serving)
        if any("pack:" in word for word in words):
            return "needs the data packs"
        if any(_STORE.search(word) for word in words):
            return "needs an object store"
        return _other(verb, params)


def _far(verb: str, params: Params, *, serving: bool) -> str:
    if verb == "submit":
        return "" if params["print_command"] else "needs a cluster"
    return "" if serving and SERVED.search(str(params["url"])) else "needs a running service"


def _other(verb: str, params: Params) -> str:
    if verb == "ask" or verb == "icl-eval":
        lmm = params["lmm"]
        if lmm not in (None, "vote"):
            return "needs a model server"
    if verb == "encoder import" and not str(params["weights"]).startswith("$("):
        return "needs a model hub"
    if verb == "data import-3diebench" or (verb == "data video" and CLIP not in params["words"]):
        return "needs a download"
    if trains(verb, params) and not _finished(params):
        return "takes minutes"
    return ""


def _finished(params: Params) -> bool:
    """Whether the command asks for no more than the run that the sandbox has."""
    if "recipe" not in params or not str(params["recipe"]).endswith(".yaml") or "lmm" in params:
        return False
    config, out = find(str(params["recipe"]), params["overrides"] or []), str(params["out"] or "")
    return config == find(FINISHED, []) and out in ("", "runs/mine")


def _module(name: str) -> str:
    if importlib.util.find_spec(name) is None:
        raise ValueError(f"no module {name}")
    return "takes minutes"


def _target(words: tuple[str, ...]) -> str:
    makefile = (CHECKOUT / "Makefile").read_text("utf-8")
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if not equals and re.search(rf"^{re.escape(word)}:", makefile, flags=re.MULTILINE) is None:
            raise ValueError(f"make has no target {word}")
        if equals and f"({name})" not in makefile and f"{name} ?=" not in makefile:
            raise ValueError(f"the Makefile reads no {name}")
        if name == "SUITE" and value.islower() and not (CHECKOUT / "benchmarks" / f"{value}.py").is_file():
            raise ValueError(f"no benchmark {value}")
    return "takes minutes"


def _packages(words: tuple[str, ...]) -> str:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
    pinned = (CHECKOUT / "constraints.txt").read_text("utf-8").lower().replace("_", "-")
    before = ""
    for word in words[2:]:
        ours = re.fullmatch(r"(?:\.|viewfold)(?:\[(?P<extras>[\w,]+)\])?", word)
        if ours:
            missing = set((ours["extras"] or "all").split(",")) - set(project["optional-dependencies"])
            if missing:
                raise ValueError(f"no extra {', '.join(sorted(missing))}")
        elif before in ("-c", "-r"):
            if not (CHECKOUT / word).is_file():
                raise ValueError(f"no file {word}")
        elif not word.startswith("-") and f"{re.split('[<>=]', word)[0].lower().replace('_', '-')}==" not in pinned:
            raise ValueError(f"{word} is not among the packages of constraints.txt")
        before = word
    return "installs packages"
