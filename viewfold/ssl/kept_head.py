"""A head kept beside the encoder that it was trained with: what it is built from, its weights, whose it is.

Training throws the other heads away. An equivariant head is kept because the measurements of equivariance need it, a
subspace head because the next stage of training begins with it and clusters are read from it.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from viewfold.config import Config, dump, parse
from viewfold.errors import ArtifactMismatch, InvalidInput
from viewfold.folders import whole_folder
from viewfold.ssl.equivariant import EquivariantHead, HeadConfig
from viewfold.ssl.subspace_head import SubspaceHead, SubspaceHeadConfig

FORMAT = 1
"""Version of the head's folder; a reader refuses any other."""
HEAD_FOLDER = "head"
"""Where it lies within an encoder folder."""

KeptHead = EquivariantHead | SubspaceHead


class _Kind(NamedTuple):
    config: type[Config]
    build: Callable[[Any], KeptHead]


KINDS: dict[str, _Kind] = {
    "equivariant": _Kind(HeadConfig, EquivariantHead),
    "subspace": _Kind(SubspaceHeadConfig, SubspaceHead),
}
"""By the `kind` that the folder names."""


def save_head(
    config: HeadConfig | SubspaceHeadConfig, weights: Mapping[str, Tensor], encoder: Path, *, encoder_id: str
) -> None:
    """Write a head, as a method's state holds it (`head.*`), into the folder of the encoder it was trained with."""
    prefix = "head."
    own = {k.removeprefix(prefix): v.detach().cpu() for k, v in weights.items() if k.startswith(prefix)}
    with whole_folder(encoder / HEAD_FOLDER) as part:
        path = part / "head.safetensors"
        save_file({name: value.contiguous() for name, value in own.items()}, path)
        body = {
            "format": FORMAT,
            "encoder_id": encoder_id,
            "kind": next(name for name, kind in KINDS.items() if isinstance(config, kind.config)),
            "head": dump(config),
            "weights_sha256": _digest(path),
        }
        (part / "head.json").write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")


def load_head(encoder: Path, *, encoder_id: str | None) -> KeptHead | None:
    """The head in an encoder's folder, on the CPU, in evaluation mode; None where the encoder has none.

    Raises:
        InvalidInput: one of a newer format, or of a kind that this version does not know.
        ArtifactMismatch: the files are damaged, or another encoder's.
    """
    folder = encoder / HEAD_FOLDER
    if not folder.is_dir():
        return None
    body, weights = _read(folder / "head.json"), folder / "head.safetensors"
    if body.get("encoder_id") != encoder_id:
        raise ArtifactMismatch(
            f"{folder}: belongs to encoder {body.get('encoder_id')}, not {encoder_id}; copy the whole encoder folder"
        )
    if not weights.is_file() or _digest(weights) != body.get("weights_sha256"):
        raise ArtifactMismatch(f"{weights}: not the file that was saved; copy the whole encoder folder again")
    kind = KINDS[body["kind"]]
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are overwritten
        head = kind.build(parse(kind.config, body["head"], where=str(folder / "head.json")))
    try:
        head.load_state_dict(load_file(weights))
    except (RuntimeError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ArtifactMismatch(f"{weights}: does not fit this version: {reason}") from None
    return head.eval()


def _read(path: Path) -> dict[str, Any]:
    try:
        body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactMismatch(f"{path}: cannot be read ({error}); copy the whole encoder folder again") from None
    if body.get("format") != FORMAT:
        raise InvalidInput(f"{path}: head format {body.get('format')}, this version reads {FORMAT}; train it again")
    body.setdefault("kind", "equivariant")  # heads from before there were two kinds name none
    if body["kind"] not in KINDS:
        raise InvalidInput(f"{path}: a head of kind {body['kind']!r}; this version reads {', '.join(KINDS)}; update it")
    return body


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
