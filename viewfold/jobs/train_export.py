"""What a training leaves: the encoder, and the head that is kept beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from viewfold.jobs.step_selection import StepSelection
from viewfold.ssl.encoder import save_encoder, trained_encoder
from viewfold.ssl.engine import AbstractEngine
from viewfold.ssl.kept_head import save_head
from viewfold.ssl.methods import Method


def export(
    engine: AbstractEngine, method: Method, folder: Path, *, lineage: Mapping[str, Any], choice: StepSelection | None
) -> dict[str, Any]:
    """Write the encoder on rank 0, and the head if there is one, from weights that the engine gathers, or from those of
    the step that was chosen. A call of all ranks."""
    weights = engine.weights()
    if not weights:
        return {}
    facts: dict[str, Any] = {}
    if choice is not None and choice.best is not None:
        weights, facts = choice.best.weights, {"selected": choice.facts()}
    encoder = trained_encoder(method.encoder.config, weights)
    identity = save_encoder(encoder, folder, lineage={**lineage, **facts})
    keep_head(method, weights, folder, identity)
    return {"encoder_id": identity, **facts}


def keep_head(method: Method, weights: Mapping[str, Tensor], encoder: Path, identity: str) -> None:
    """Beside the encoder, where the method trains one that later stages need."""
    if method.head is not None:
        save_head(method.head.config, weights, encoder, encoder_id=identity)
