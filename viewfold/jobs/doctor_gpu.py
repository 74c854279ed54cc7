"""GPUs: whether PyTorch sees them, and if not which of driver and build is why; NCCL, and FAISS for GPUs."""

from collections.abc import Mapping
from pathlib import Path

from viewfold.jobs.doctor_finding import Finding, note, ok

DRIVER = Path("/proc/driver/nvidia/version")


def gpus(have: Mapping[str, str], driver_file: Path = DRIVER) -> list[Finding]:
    """What is there to compute on; no GPU is sound, for everything runs on the CPU."""
    if "torch" not in have:
        return [ok("gpu", "unknown without torch")]
    import torch

    driver = _driver(driver_file)
    if not torch.cuda.is_available():
        return [_unseen(driver, torch.version.cuda)]
    devices = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    names = ", ".join(f"{device.name} with {device.total_memory / 1e9:.0f} GB" for device in devices)
    found = [ok("gpu", f"{names}; driver {driver or 'unknown'}, CUDA {torch.version.cuda}"), _nccl()]
    if "faiss-gpu-cu12" not in have:
        cure = "pip uninstall faiss-cpu; pip install 'viewfold[gpu]'"
        found.append(note("faiss on gpu", "faiss-gpu-cu12 not installed: indexes are built on the CPU", cure))
    return found


def _driver(path: Path) -> str | None:
    """Version of NVIDIA's kernel module; None where it is not loaded."""
    if not path.is_file():
        return None
    words = path.read_text(encoding="utf-8").splitlines()[0].split()
    return next((word for word in words if word[0].isdigit() and "." in word), "of unknown version")


def _unseen(driver: str | None, cuda: str | None) -> Finding:
    if driver is None:
        return ok("gpu", "none (no NVIDIA driver is loaded); everything runs on the CPU")
    if cuda is None:
        cure = "install a build of torch for CUDA: https://pytorch.org/get-started"
        return note("gpu", f"driver {driver} is loaded, and torch is built for CPUs only", cure)
    cure = "look at `nvidia-smi` and CUDA_VISIBLE_DEVICES; in a container pass the GPUs (docker: --gpus all)"
    return note("gpu", f"driver {driver} is loaded, and torch for CUDA {cuda} sees no GPU", cure)


def _nccl() -> Finding:
    import torch
    from torch.distributed import is_nccl_available

    if not is_nccl_available():
        cure = "install a build of torch for CUDA with NCCL; one GPU does without"
        return note("nccl", "not in this build of torch: several GPUs cannot train together", cure)
    return ok("nccl", ".".join(str(number) for number in torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
