"""MLflow's own programs, which tests start: its tracking server, and its server of one model."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from servers import free_port, wait_until

CHECKOUT = Path(__file__).resolve().parents[1]
START_S = 240
"""A machine that tests many things at once takes a minute."""
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # its prices of models would be asked of the network
}


@contextmanager
def tracking_server(folder: Path) -> Iterator[str]:
    """The address of an MLflow server without log-in that takes artifacts over HTTP, to a folder of its own."""
    words = ["server", "--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    words += ["--serve-artifacts", "--artifacts-destination", str(folder / "store")]
    with _running(words, "/health", folder / "server.log") as url:
        yield url


@contextmanager
def model_server(model: str, tracking_uri: str, log: Path) -> Iterator[str]:
    """The address at which `mlflow models serve` answers for a registered model."""
    words = ["models", "serve", "-m", model, "--env-manager", "local"]
    with _running(words, "/ping", log, MLFLOW_TRACKING_URI=tracking_uri) as url:
        yield url


def _environment(**variables: str) -> dict[str, str]:
    """This process's environment with what another one needs to find our packages and its own programs."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, **QUIET, "PATH": path, "PYTHONPATH": str(CHECKOUT), **variables}


@contextmanager
def _running(words: Sequence[str], ready: str, log: Path, **variables: str) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "mlflow", *words, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=file,
            env=_environment(**variables),
            cwd=log.parent,
            start_new_session=True,  # it starts others, which are to end with it
        )
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: _answers(f"{url}{ready}") or process.poll() is not None, seconds=START_S)
            assert process.poll() is None, log.read_text(encoding="utf-8")
            yield url
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except (URLError, TimeoutError, ConnectionError):
        return False
