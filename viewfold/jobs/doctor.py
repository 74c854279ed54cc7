"""What this machine can do, what is missing, and how to get it."""

import os
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from viewfold import __version__
from viewfold.errors import InvalidInput

OWNERS = {
    "train": ("torch", "torchvision", "timm", "kornia", "webdataset", "ray", "deepspeed", "mlflow", "safetensors"),
    "remote": ("fsspec", "aiohttp", "s3fs", "gcsfs", "huggingface_hub"),
    "video": ("opencv-python-headless",),
    "retrieval": ("faiss-cpu|faiss-gpu-cu12",),
}
"""Packages by the extra that brings them; `|` separates packages of which one is enough."""
LEAST_FREE_GB = 2
LEAST_SHM_GB = 1


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    what: str
    sound: bool
    says: str
    cure: str = ""


def examine() -> list[Finding]:
    """Look at the interpreter, the packages, cores, disk, shared memory, shard cache, GPU and tracking server."""
    findings = [
        Finding("viewfold", True, __version__),
        Finding("python", sys.version_info >= (3, 10), platform.python_version(), "install Python 3.10 or newer"),
        *(_package(names, extra) for extra, packages in OWNERS.items() for names in packages),
        Finding("cores", True, str(os.cpu_count())),
        _free(Path.cwd(), "disk", LEAST_FREE_GB, "free space or run elsewhere: a run keeps its checkpoints here"),
    ]
    if Path("/dev/shm").is_dir():
        cure = "give it more (docker: --shm-size=2g): Ray and data loading workers share memory there"
        findings.append(_free(Path("/dev/shm"), "shared memory", LEAST_SHM_GB, cure))
    findings += [_shard_cache(), _gpu()]
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "runs/mlflow.db (SQLite; set MLFLOW_TRACKING_URI for a server)")
    cluster = os.environ.get("RAY_ADDRESS", "started on this machine when needed (set RAY_ADDRESS for a cluster)")
    return [*findings, Finding("tracking", True, tracking), Finding("ray cluster", True, cluster)]


def show(findings: Sequence[Finding]) -> bool:
    """Print the findings; whether all are sound."""
    for finding in findings:
        mark = "ok     " if finding.sound else "MISSING"
        cure = "" if finding.sound or not finding.cure else f"\n{'':25}-> {finding.cure}"
        print(f"{mark} {finding.what:16} {finding.says}{cure}")
    return all(finding.sound for finding in findings)


def _package(names: str, extra: str) -> Finding:
    for name in names.split("|"):
        try:
            return Finding(name, True, version(name))
        except PackageNotFoundError:
            continue
    return Finding(names.split("|")[0], False, "not installed", f"pip install 'viewfold[{extra}]'")


def _free(path: Path, what: str, least_gb: float, cure: str) -> Finding:
    free_gb = shutil.disk_usage(path).free / 1e9
    return Finding(what, free_gb >= least_gb, f"{free_gb:.1f} GB free at {path}", cure)


def _shard_cache() -> Finding:
    """Where shards of remote stores are kept on this machine."""
    try:
        from viewfold.pipeline.remote.cache import shard_cache
    except ModuleNotFoundError as error:
        return Finding("shard cache", True, f"unknown without {error.name}")
    try:
        cache = shard_cache()
        held, most = cache.held_bytes(), cache.max_bytes
    except InvalidInput as error:
        return Finding("shard cache", False, str(error), "VIEWFOLD_CACHE and VIEWFOLD_CACHE_BYTES set it")
    says = f"{held / 1e9:.1f} of {most / 1e9:g} GB used at {cache.folder} (VIEWFOLD_CACHE, VIEWFOLD_CACHE_BYTES)"
    return Finding("shard cache", True, says)


def _gpu() -> Finding:
    """No GPU is sound: everything runs on the CPU."""
    try:
        import torch
    except ModuleNotFoundError:
        return Finding("gpu", True, "unknown without torch")
    if not torch.cuda.is_available():
        return Finding("gpu", True, "none; everything runs on the CPU")
    return Finding("gpu", True, ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())))
