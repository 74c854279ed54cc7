"""The equivariant head: an embedding of one part of the features, and a predictor of how a transformation moves it.

Training throws it away with the other heads, but the measurements of equivariance need it, so it is kept in a folder of
its own beside the encoder's files.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import safetensors
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from viewfold.config import Config, chosen, dump, parse
from viewfold.errors import ArtifactMismatch, InvalidInput
from viewfold.folders import whole_folder
from viewfold.ssl.heads import expander
from viewfold.ssl.predictors import PREDICTOR_CONFIGS, PredictorConfig, build_predictor

FORMAT = 1
"""Version of the head's folder; a reader refuses any other."""
HEAD_FOLDER = "head"
"""Where it lies within an encoder folder."""


@dataclass(frozen=True, kw_only=True)
class HeadConfig(Config):
    """All that a head is built from."""

    part: str
    """The part of the features that it embeds."""
    part_dim: int
    """Width of that part."""
    transformation: str
    """The relation of two views that it follows, a name of `RELATIONS`."""
    num_params: int
    """Numbers in such a transformation."""
    widths: tuple[int, ...]
    """Of the expander: hidden layers, then the embedding."""
    predictor: Annotated[PredictorConfig, chosen("predictor", PREDICTOR_CONFIGS)]


class EquivariantHead(nn.Module):
    """Embeds features, and predicts the embedding of a view from that of another and what lies between them."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = expander(config.part_dim, config.widths)
        self.predict = build_predictor(config.predictor, dim=config.widths[-1], num_params=config.num_params)

    def forward(self, features: Float[Tensor, "batch part_dim"], z: Float[Tensor, "batch k"]) -> Tensor:
        """`[batch, dim]`: the predicted embedding of the view that `z` leads to."""
        predicted: Tensor = self.predict(self.embed(features), z)
        return predicted


def save_head(config: HeadConfig, weights: Mapping[str, Tensor], encoder: Path, *, encoder_id: str) -> None:
    """Write a head, as a method's state holds it (`head.*`), into the folder of the encoder it was trained with."""
    prefix = "head."
    own = {k.removeprefix(prefix): v.detach().cpu() for k, v in weights.items() if k.startswith(prefix)}
    with whole_folder(encoder / HEAD_FOLDER) as part:
        path = part / "head.safetensors"
        save_file({name: value.contiguous() for name, value in own.items()}, path)
        body = {"format": FORMAT, "encoder_id": encoder_id, "head": dump(config), "weights_sha256": _digest(path)}
        (part / "head.json").write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")


def load_head(encoder: Path, *, encoder_id: str | None) -> EquivariantHead | None:
    """The head in an encoder's folder, on the CPU, in evaluation mode; None where the encoder has none.

    Raises:
        InvalidInput: one of a newer format.
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
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are overwritten
        head = EquivariantHead(parse(HeadConfig, body["head"], where=str(folder / "head.json")))
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
    return body


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
