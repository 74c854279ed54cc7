"""What this machine is doing: processors, memory, disk and GPUs, sampled by a thread while work is done."""

import csv
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

EVERY_S = 10.0
_QUERY = ("index", "utilization.gpu", "memory.used", "memory.total")
_NVIDIA_SMI_S = 10.0


@contextmanager
def sampled(put: Callable[[Mapping[str, float]], object], folder: Path, *, every_s: float = EVERY_S) -> Iterator[None]:
    """Call `put`, in a thread, with a sample every `every_s` seconds of the block, and with one at its end.

    The names are those of MLflow's own system metrics, which its page shows apart. `folder` tells which disk.
    """
    over = threading.Event()

    def work() -> None:
        while not over.wait(every_s):
            put(sample(folder))
        put(sample(folder))

    psutil.cpu_percent()  # each call tells of the time since the one before
    thread = threading.Thread(target=work, name="system metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def sample(folder: Path) -> dict[str, float]:
    """Percent, and megabytes of 10^6 bytes."""
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(folder)
    return {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / 1e6,
        "system_memory_usage_percentage": memory.percent,
        "disk_usage_percentage": 100 * disk.used / disk.total,
        "disk_available_megabytes": disk.free / 1e6,
        **gpus(),
    }


def gpus() -> dict[str, float]:
    """The same of each GPU, by NVIDIA's own tool: PyTorch would take memory on each, for looking."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    command = [program, f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_NVIDIA_SMI_S).stdout
    except (subprocess.SubprocessError, OSError):
        return {}  # a driver that does not answer now; the next sample may tell
    found: dict[str, float] = {}
    for number, *words in csv.reader(said.splitlines(), skipinitialspace=True):
        busy, used, total = (float(word) if word.replace(".", "", 1).isdigit() else None for word in words)
        name = f"gpu_{number}"
        if busy is not None:  # a slice of a GPU does not know: "[N/A]"
            found[f"{name}_utilization_percentage"] = busy
        if used is not None and total:
            found[f"{name}_memory_usage_megabytes"] = used * (1 << 20) / 1e6
            found[f"{name}_memory_usage_percentage"] = 100 * used / total
    return found
