"""The Python that has the libraries which do not fit beside ours: `make peers` installs them into `.venv-peers`.

The environment variable PEERS_PYTHON names another one. What is missing there is left out of the measurements.
"""

import json
import os
import subprocess
from functools import cache
from pathlib import Path

from viewfold.errors import InvalidInput

PEERS = "PEERS_PYTHON"
USUAL = Path(__file__).parents[1] / ".venv-peers" / "bin" / "python"

VERSIONS = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {}
for package in sys.argv[1:]:
    try:
        found[package] = version(package)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def python_with(package: str) -> str | None:
    """The peers' Python, if there is one and it has `package`."""
    return _python() if package in peer_versions(package) else None


@cache
def peer_versions(*packages: str) -> dict[str, str]:
    """Versions of those of the packages that the peers' Python has; none without such a Python.

    Raises:
        InvalidInput: PEERS_PYTHON names nothing that runs as Python.
    """
    python = _python()
    if python is None:
        return {}
    try:
        run = subprocess.run([python, "-c", VERSIONS, *packages], capture_output=True, text=True, check=True)
        found: dict[str, str] = json.loads(run.stdout)
    except (OSError, subprocess.CalledProcessError, json.JSONDecodeError) as error:
        raise InvalidInput(f"{PEERS}={python} does not run as Python: name an interpreter, or `make peers`") from error
    return found


def left_out(name: str, package: str) -> str:
    """What a record says in the place of rows that had no peer."""
    return f"{name}: left out, since no Python with {package} was found: `make peers`, or {PEERS}"


def _python() -> str | None:
    return os.environ.get(PEERS) or (str(USUAL) if USUAL.exists() else None)
