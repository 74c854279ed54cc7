"""What is submitted: a command line, and the id, entry point and environment that follow from it. No Ray here."""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

import viewfold
from viewfold.config import Config
from viewfold.errors import InvalidInput

EXCLUDES = (".git/", "__pycache__/", "*.pyc", ".venv*/", ".*_cache/", ".hypothesis/", "/runs/", "/mlruns/", "mlflow.db")
"""Of what is sent: history, caches, and what runs leave behind."""
TRACKING = "MLFLOW_TRACKING_URI"
_HOMES = ("--out", "-o", "--home")
_LEAVES_A_FOLDER = ("run", "pretrain", "mine", "adapt", "cluster", "embed", "evaluate", "icl-eval", "demo", "nightly")
_LONGEST = 40


@dataclass(frozen=True, kw_only=True)
class SubmitConfig(Config):
    """A command line of `viewfold` that a cluster is to run."""

    words: tuple[str, ...]
    """What would stand after `viewfold`; paths are those that the cluster's head sees, but for files that are sent."""
    address: str
    """Of the cluster's dashboard, such as http://head:8265."""
    id: str = ""
    """Of the submission; left out, one that is the same for the same words."""
    env: dict[str, str] = field(default_factory=dict)
    """Environment variables of the job, and of all that it starts."""
    working_dir: Path | None = None
    """A folder to send, in which the job begins; left out, the YAML files that `words` name are, if any lie here."""

    def __post_init__(self) -> None:
        if not self.words:
            raise ValueError("words: name a verb, as in `viewfold submit run smoke --address http://head:8265`")
        if not re.match(r"https?://[^/\s]+", self.address):
            raise ValueError(f"address must be that of the dashboard, such as http://head:8265, got {self.address!r}")
        if self.id and not re.fullmatch(r"[A-Za-z0-9][\w.-]*", self.id):
            raise ValueError(f"id must be letters, digits, '.', '_' and '-', got {self.id!r}")
        if self.working_dir is not None and not self.working_dir.is_dir():
            raise ValueError(f"working_dir={self.working_dir}: no such folder")
        if self.sends and self.words[0] in _LEAVES_A_FOLDER and not _has_a_home(self.words):
            raise ValueError(
                "the job begins in a folder of its own that is gone after it: say where the run goes by --out (or "
                "--home) and an absolute path that all nodes see"
            )

    @property
    def sends(self) -> bool:
        """Whether files of the user go with the words."""
        return self.working_dir is not None or bool(sent_files(self.words))

    @property
    def submission_id(self) -> str:
        """The one that was asked for, else that of the words."""
        return self.id or submission_id(self.words)


def submission_id(words: Sequence[str]) -> str:
    """The same for the same verb, words and run folder, however that is written; `viewfold-run-smoke-1f2e3d4c`."""
    plain, homes = _split(words)
    digest = hashlib.sha256(json.dumps([plain, sorted(homes.items())]).encode()).hexdigest()[:8]
    subjects = [word for word in plain[1:] if not word.startswith("-")][:1]
    name = "-".join(["viewfold", plain[0] if plain else "", *(Path(subject).stem for subject in subjects)])
    return f"{re.sub(r'[^a-z0-9]+', '-', name.lower())[:_LONGEST].strip('-')}-{digest}"


def entrypoint(words: Sequence[str]) -> str:
    """The command that the cluster's shell is given."""
    return shlex.join(["python", "-m", "viewfold.cli", *words])


def dated(words: Sequence[str], now: datetime) -> tuple[str, ...]:
    """`words`, with the day where a nightly does not name one: each night is then a submission of its own."""
    if list(words[:1]) == ["nightly"] and not any(word.partition("=")[0] == "--date" for word in words):
        return (*words, "--date", f"{now:%Y-%m-%d}")
    return tuple(words)


def sent_files(words: Sequence[str], folder: Path = Path()) -> list[str]:
    """The YAML files among the words that lie below `folder`; an absolute path is one that the cluster sees."""
    files = [word for word in words[1:] if word.endswith((".yaml", ".yml")) and (folder / word).is_file()]
    return [file for file in files if not Path(file).is_absolute() and ".." not in Path(file).parts]


def sent_mark(config: SubmitConfig) -> str:
    """What the files that words name hold, of which the words tell nothing; empty where none is sent."""
    folder = config.working_dir or Path()
    files = sent_files(config.words, folder)
    return hashlib.sha256(b"".join((folder / file).read_bytes() for file in files)).hexdigest() if files else ""


def passed_on(names: Sequence[str], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables `NAME` (as it is here) and `NAME=VALUE`; and the tracking server, where that is one on a network.

    Raises:
        InvalidInput: a name that is no name, or that is not set here.
    """
    tracking = environ.get(TRACKING, "")
    passed = {TRACKING: tracking} if tracking.startswith(("http://", "https://")) else {}
    for entry in names:
        name, equals, value = entry.partition("=")
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise InvalidInput(f"--env {entry}: write it as NAME or NAME=VALUE")
        if not equals and name not in environ:
            raise InvalidInput(f"--env {name}: it is not set here; set it, or write --env {name}=VALUE")
        passed[name] = value if equals else environ[name]
    return passed


def left_to_shell(env: Mapping[str, str], named: Sequence[str]) -> list[str]:
    """Those of the variables `env` whose values are of this machine's environment, and not among the words `named`."""
    written = {name: bool(equals) for name, equals, _ in (entry.partition("=") for entry in named)}
    return [name for name in env if not written.get(name, False)]


def runtime_env(config: SubmitConfig, working_dir: Path | None) -> dict[str, Any]:
    """Of Ray: this package, so that the cluster runs what is run here; variables; the folder that is sent."""
    package = Path(viewfold.__file__).parent
    folder = {} if working_dir is None else {"working_dir": str(working_dir)}
    # Not the checkout as working_dir: the job would begin in a copy of it, which relative paths would mean.
    return {**folder, "py_modules": [str(package)], "excludes": list(EXCLUDES), "env_vars": dict(config.env)}


def equivalent(config: SubmitConfig, named: Sequence[str] = (), *, follow: bool = True) -> str:
    """The same as a command of Ray's own; variables in `named` are left to the shell, for they may be secrets."""
    marks = {name: f"@{name}@" for name in config.env if name in named}
    here = Path() if sent_files(config.words) else None
    env = runtime_env(config, config.working_dir or here)
    env["env_vars"] |= marks
    text = shlex.quote(json.dumps(env))
    for name, mark in marks.items():
        text = text.replace(mark, f"'\"${name}\"'")
    words = ["ray", "job", "submit", "--address", config.address, "--submission-id", config.submission_id]
    waits = [] if follow else ["--no-wait"]
    return f"{shlex.join([*words, *waits])} --runtime-env-json {text} -- {entrypoint(config.words)}"


def _has_a_home(words: Sequence[str]) -> bool:
    return any(PurePosixPath(folder).is_absolute() for folder in _split(words)[1].values())


def _split(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The words without the options that say where the run goes, and those, as they would be read."""
    plain: list[str] = []
    homes: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name in _HOMES:
            homes["--out" if name == "-o" else name] = os.path.normpath(value if equals else next(rest, ""))
        else:
            plain.append(word)
    return plain, homes
