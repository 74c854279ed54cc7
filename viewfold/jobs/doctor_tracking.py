"""The tracking server: whether MLflow answers at MLFLOW_TRACKING_URI, or its SQLite file can be written."""

import base64
import os
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import Request

from viewfold.jobs.doctor_finding import Finding, missing, note, ok, reason
from viewfold.jobs.doctor_machine import folder
from viewfold.jobs.submit_server import open_here

TIMEOUT_S = 3.0
_CURE = "correct MLFLOW_TRACKING_URI, or unset it to track in runs/mlflow.db"


def tracking(have: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """Where runs and encoders are registered; `have` holds the versions of installed packages."""
    uri = environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'runs' / 'mlflow.db'}"
    try:
        urlsplit(uri).port  # noqa: B018 - read, because that is when it is parsed
    except ValueError as error:
        return [missing("tracking", f"MLFLOW_TRACKING_URI is no address ({error})", _CURE)]
    if uri.startswith(("http://", "https://")):
        return [_server(uri, have.get("mlflow", ""), environ)]
    if uri.startswith("sqlite:///"):
        return [_file(Path(uri.removeprefix("sqlite:///")))]
    return [ok("tracking", f"{_shown(uri)}, not looked at: only http://, https:// and sqlite:/// are")]


def _server(uri: str, client: str, environ: Mapping[str, str]) -> Finding:
    try:
        with open_here(_request(uri, environ), timeout=TIMEOUT_S) as answer:
            server = answer.read(100).decode("ascii", "replace").strip()
    except HTTPError as error:
        with error:
            return _refused(uri, error.code)
    except (OSError, HTTPException, ValueError) as error:  # ValueError: a host name that none can have
        inner = error.reason if isinstance(error, URLError) else error
        why = reason(inner) if isinstance(inner, OSError) else str(inner)
        return missing("tracking", f"{_shown(uri)} does not answer ({why})", _CURE)
    if not re.fullmatch(r"\d+\.\d+\S*", server):
        return missing("tracking", f"{_shown(uri)} answers, and is no MLflow server", _CURE)
    says = f"MLflow {server} at {_shown(uri)}"
    if client and server.split(".")[0] != client.split(".")[0]:
        return note("tracking", f"{says}, the client here is {client}", "install the same major version on both")
    return ok("tracking", says)


def _request(uri: str, environ: Mapping[str, str]) -> Request:
    """The question for the version, with the credentials that MLflow itself would show."""
    url = urlsplit(uri)
    user, password = environ.get("MLFLOW_TRACKING_USERNAME"), environ.get("MLFLOW_TRACKING_PASSWORD")
    if url.username:
        user, password = unquote(url.username), unquote(url.password or "")
    host = url.netloc.rpartition("@")[2]
    request = Request(urlunsplit((url.scheme, host, f"{url.path.rstrip('/')}/version", "", "")))
    if user:
        both = base64.b64encode(f"{user}:{password or ''}".encode()).decode()
        request.add_header("Authorization", f"Basic {both}")
    elif token := environ.get("MLFLOW_TRACKING_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    return request


def _shown(uri: str) -> str:
    """Without user, password and query."""
    url = urlsplit(uri)
    return urlunsplit((url.scheme, url.netloc.rpartition("@")[2], url.path, "", ""))


def _refused(uri: str, status: int) -> Finding:
    if status not in (401, 403):
        return missing("tracking", f"{_shown(uri)} answers {status}, which is not what an MLflow server does", _CURE)
    cure = (
        "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN;"
        " a server that was started for other host names needs --allowed-hosts"
    )
    return missing("tracking", f"{_shown(uri)} refuses access ({status})", cure)


def _file(path: Path) -> Finding:
    """Asked for the right to write, and given back unused: permissions alone say nothing of a read-only disk."""
    cure = "move it away, or set MLFLOW_TRACKING_URI to a server or to another file (sqlite:////folder/mlflow.db)"
    beside = folder("tracking", path.parent, cure, 0)
    if beside.level != "ok":
        return beside
    if not path.exists():
        return ok("tracking", f"{path} (SQLite), made by the first run; MLFLOW_TRACKING_URI names a server")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=0.2)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.rollback()
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            return note(
                "tracking", f"{path}: another process is writing now", "a server takes many writers: mlflow server"
            )
        return missing("tracking", f"{path}: {error}", cure)
    except sqlite3.DatabaseError as error:
        return missing("tracking", f"{path}: {error}", cure)
    return ok("tracking", f"{path} (SQLite) can be written")
