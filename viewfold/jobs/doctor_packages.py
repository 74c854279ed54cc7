"""Which packages are installed, by the extra that brings them, and whether the tests run with these versions."""

import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import viewfold
from viewfold.jobs.doctor_finding import Finding, missing, note, ok


class Extra(NamedTuple):
    """What one extra of pyproject.toml brings."""

    packages: tuple[str, ...]
    """As pyproject.toml spells them; `|` separates packages of which one is enough."""
    brings: str
    needed: bool = False
    """Whether `viewfold run` stops without it."""


EXTRAS = {
    "train": Extra(
        (
            "deepspeed", "huggingface_hub", "jaxtyping", "jinja2", "kornia", "matplotlib", "mlflow", "psutil", "ray",
            "safetensors", "scikit-learn", "scipy", "timm", "torch", "torchvision", "webdataset",
        ),
        "training, measuring and embedding",
        True,
    ),
    "retrieval": Extra(("faiss-cpu|faiss-gpu-cu12",), "indexes", True),
    "serve": Extra(
        (
            "fastapi", "httptools", "orjson", "prometheus_client", "python-multipart", "ray", "starlette", "uvicorn",
        ),
        "the service",
    ),
    "remote": Extra(("aiohttp", "fsspec", "gcsfs", "huggingface_hub", "s3fs"), "shards in object stores"),
    "video": Extra(("opencv-python-headless|opencv-python", "webdataset"), "shards from videos"),
    "lmm": Extra(("openai",), "asking a multimodal model"),
}  # fmt: skip
"""The extras that `all` takes together."""


def packages(have: Mapping[str, str], tested: Mapping[str, str]) -> list[Finding]:
    """A finding for each extra, one on two FAISS side by side, and one on versions that the tests do not run with."""
    findings = [_extra(name, extra, have) for name, extra in EXTRAS.items()]
    if {"faiss-cpu", "faiss-gpu-cu12"} <= have.keys():
        cure = "pip uninstall faiss-cpu faiss-gpu-cu12, then install one of them"
        findings.append(note("faiss", "faiss-cpu and faiss-gpu-cu12 have overwritten each other's files", cure))
    return [*findings, _versions(have, tested)]


def installed() -> dict[str, str]:
    """Versions of the packages of all extras, by name; without those that are not installed."""
    found = {}
    for name in sorted({name for extra in EXTRAS.values() for names in extra.packages for name in names.split("|")}):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def constrained_versions() -> dict[str, str]:
    """The exact versions of constraints.txt by canonical name: in the package, or beside it in a checkout."""
    package = Path(viewfold.__file__).parent
    for path in (package / "constraints.txt", package.parent / "constraints.txt"):
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            pairs = (line.split("==") for line in lines if re.match(r"[^#\s]+==", line))
            return {_canonical(name): number.strip() for name, number in pairs}
    return {}


def _extra(name: str, extra: Extra, have: Mapping[str, str]) -> Finding:
    present, absent = [], []
    for names in extra.packages:
        found = next((one for one in names.split("|") if one in have), None)
        if found is None:
            absent.append(names.split("|")[0])
        else:
            present.append(f"{found} {have[found]}")
    if not absent:
        return ok(name, ", ".join(present))
    say = missing if extra.needed else note
    return say(name, f"{', '.join(absent)} not installed", f"pip install 'viewfold[{name}]' brings {extra.brings}")


def _versions(have: Mapping[str, str], tested: Mapping[str, str]) -> Finding:
    if not tested:
        return ok("versions", "not compared: there is no constraints.txt with the tested ones")
    others = [
        f"{name} {number} ({tested[_canonical(name)]})"
        for name, number in have.items()
        # What follows a + is how a wheel was built, such as for a CPU.
        if tested.get(_canonical(name), number.partition("+")[0]) != number.partition("+")[0]
    ]
    if not others:
        return ok("versions", "those that the tests run with")
    says = f"others than the tests run with (in brackets): {', '.join(others)}"
    return note("versions", says, "if something fails, install again with `-c constraints.txt`")


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
