"""Which machine, code and libraries a figure belongs to."""

import os
import platform
import subprocess
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def describe_machine(*packages: str) -> dict[str, Any]:
    """Processor, cores, GPU, commit, date, and the versions of torch and `packages`."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {package: version(package) for package in ("torch", *packages)},
        "commit": _commit(),
        "date": date.today().isoformat(),
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str:
    """The commit, `-dirty` where code differs from it: a record that another suite has just written does not count."""
    run = subprocess.run(["git", "describe", "--always"], capture_output=True, text=True, check=False)
    if run.returncode:
        return "unknown"
    written = [f":(top,exclude){folder}" for folder in ("benchmarks/results", "docs")]
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", ":/", *written], check=False).returncode
    return run.stdout.strip() + ("-dirty" if changed else "")
