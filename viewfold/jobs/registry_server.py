"""What all that speaks to a tracking server shares: mlflow, set up before it is imported; which server; its errors.

MLflow takes two seconds to import, so it is imported by what asks a server, not by what could.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from viewfold.errors import InvalidInput, MissingDependency

# All of these are read while mlflow is imported, or at each request; what a user has set stays.
_DEFAULTS = {
    # MLflow's bar over the files of one small model would stand among our own.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # "INFO Creating initial MLflow database tables" and the like.
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # Two lines about every run that ends, which would stand among our own, too.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Nothing about a run is sent to anybody but the server that was named.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A server that is gone is one line after some ten seconds; 7 retries would take four minutes to say so.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    # Of one answer, in seconds: an artifact proxy takes a whole file to its store before it answers.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}
for _name, _value in _DEFAULTS.items():
    os.environ.setdefault(_name, _value)

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "viewfold"
"""The experiment of all our runs."""
MAX_PARAM_CHARS = 6000
SQLITE = "sqlite:///"
"""What the address of a database on this machine's disk begins with."""
LEAST_BYTES = 2_000_000
"""Of room for a database that is made (1 MB) or changed (a journal beside it)."""
_UNREACHED = re.compile(r"""\(Caused by \w+\(.*?\): (.+?)["']\)""")
"""Of what requests and urllib3 say, one inside the other, the end: `[Errno 111] Connection refused`."""
_LOG_IN = re.compile(r"(?<=//)[^/\s]*@")
"""User and password of an address, which MLflow repeats in what it says."""


def loaded_mlflow() -> Any:
    """MLflow, imported where it is used. Untyped: its annotations hide what is imported when it is asked for.

    Raises:
        MissingDependency: it is not installed.
    """
    try:
        import mlflow
        import mlflow.entities
    except ModuleNotFoundError as error:
        raise MissingDependency("the registry needs mlflow: pip install 'viewfold[train]'") from error
    return mlflow


def server_uri(home: Path) -> str:
    """`MLFLOW_TRACKING_URI`, else an SQLite file in `home`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{home / 'mlflow.db'}"


def require_writable(uri: str, home: Path, files: Iterable[Path] = ()) -> None:
    """Fail where a registry in `home` cannot be written, or the disk has no room for what it holds and for `files`.

    MLflow would say so in hundreds of lines, and leave half a model. A server elsewhere is not looked at.

    Raises:
        InvalidInput: it can only be read.
        OSError: there is no room.
    """
    store = home / "mlflow.db"
    if uri != f"{SQLITE}{store}":
        return
    if not all(os.access(path, os.W_OK) for path in (home, store) if path.exists()):
        raise InvalidInput(f"{store}: can only be read; make it and its folder writable, or name another with --home")
    parts = [part for file in files for part in (file.rglob("*") if file.is_dir() else [file])]
    if shutil.disk_usage(home).free < LEAST_BYTES + sum(part.stat().st_size for part in parts):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(home))


def shown(uri: str) -> str:
    """A server's address without user, password and query."""
    url = urlsplit(uri)
    return urlunsplit((url.scheme, url.netloc.rpartition("@")[2], url.path, "", "")) if url.netloc else uri


def experiment_id(client: "MlflowClient", name: str, *, uri: str, home: Path) -> str:
    """The id of an experiment, made when it is not there; a local one has its artifacts in `home`."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = (home / "mlartifacts").as_uri() if uri.startswith(SQLITE) else None
    return str(client.create_experiment(name, artifact_location=location))


def first_line(error: Exception) -> str:
    """What an error of a server says, short enough for a line of ours, and without the log-in of its address."""
    line = _LOG_IN.sub("", str(error).strip().partition("\n")[0])
    unreached = _UNREACHED.search(line)
    return f"does not answer ({unreached[1]})" if unreached else line[:300]
