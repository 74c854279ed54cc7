"""The machine itself: interpreter, cores, shared memory, open files, folders that are written."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from viewfold import __version__
from viewfold.jobs.doctor_finding import Finding, missing, note, ok, reason

OLDEST_PYTHON = (3, 11)
LEAST_FREE_GB = 2
LEAST_SHM_GB = 1
LEAST_OPEN_FILES = 4096  # Ray warns below it
FULL = 0.95  # of a disk, where Ray stops writing objects to it


def machine() -> list[Finding]:
    """Interpreter, cores, shared memory and open files."""
    python = platform.python_version()
    wanted = ".".join(map(str, OLDEST_PYTHON))
    return [
        ok("viewfold", __version__),
        ok("python", python)
        if sys.version_info >= OLDEST_PYTHON
        else missing("python", python, f"install Python {wanted} or newer"),
        ok("cores", str(os.cpu_count())),
        *shared_memory(Path("/dev/shm")),
        *open_files(),
    ]


def shared_memory(folder: Path, least_gb: float = LEAST_SHM_GB) -> list[Finding]:
    """Where Ray keeps objects and NCCL its buffers; systems without it have nothing to report."""
    if not folder.is_dir():
        return []
    free_gb = shutil.disk_usage(folder).free / 1e9
    says = f"{free_gb:.1f} GB free at {folder}"
    if free_gb >= least_gb:
        return [ok("shared memory", says)]
    cure = "give it more (docker: --shm-size=2g; Kubernetes: an emptyDir with medium Memory)"
    return [note("shared memory", f"{says}: Ray uses the disk in its place, NCCL between GPUs may fail", cure)]


def open_files(least: int = LEAST_OPEN_FILES) -> list[Finding]:
    """How many files a process may hold open: Ray raises that to the hard limit. Windows has no such limit."""
    try:
        import resource
    except ModuleNotFoundError:
        return []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = sys.maxsize if hard == resource.RLIM_INFINITY else hard
    says = f"{soft} at once" if hard == soft else f"{soft} at once, Ray raises it by itself"
    if most >= least:
        return [ok("open files", says)]
    cure = "raise the hard limit (`ulimit -Hn 65536`, docker: --ulimit nofile=65536)"
    return [note("open files", f"{most} at once: few for a cluster or a service", cure)]


def run_folder() -> list[Finding]:
    """Where runs go by default."""
    return [folder("runs", Path.cwd() / "runs", "free space or run elsewhere: a run keeps its checkpoints here")]


def temporary_folder(environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """Where Ray keeps its sessions, and objects that find no room in memory."""
    what = "temporary files"
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if environ.get(name)), None)
    place = Path(environ[variable]) if variable else Path(tempfile.gettempdir())
    if not place.is_dir():
        return [
            note(what, f"{variable}={place}: there is no such folder, and some use another", "make it, or unset it")
        ]
    found = folder(what, place, "set TMPDIR to a folder on a disk with room")
    usage = shutil.disk_usage(place)
    if found.level == "ok" and usage.free < (1 - FULL) * usage.total:
        says = f"{found.says}, {usage.used / usage.total:.0%} of the disk used: Ray keeps no objects there"
        return [note(what, says, "free space, or set RAY_TMPDIR to a folder on another disk")]
    return [found]


def folder(what: str, path: Path, cure: str, least_gb: float = LEAST_FREE_GB) -> Finding:
    """Whether the folder, or the one above it where it would be made, takes a file and has room."""
    there = _existing(path)
    try:
        # Asking for permissions would not do: they say nothing of quotas, read-only mounts, or what root may write.
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"viewfold")
            file.flush()
        free_gb = shutil.disk_usage(there).free / 1e9
    except OSError as error:
        return missing(what, f"{there} cannot be written ({reason(error)})", cure)
    says = f"{free_gb:.1f} GB free at {path}"
    return ok(what, says) if free_gb >= least_gb else missing(what, says, cure)


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())
