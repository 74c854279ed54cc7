"""The stage `start`: a run that begins with an encoder which was trained before."""

import shutil
from pathlib import Path
from typing import Any

from viewfold.jobs.card import find_candidate
from viewfold.ssl.encoder import save_encoder
from viewfold.ssl.kept_head import save_head


def identity_of(name: str, home: Path) -> str:
    """Id of the encoder that `name` (a folder, a run folder, `models:/NAME@alias`) stands for now.

    Raises:
        InvalidInput: there is none.
    """
    return str(find_candidate(name, home).encoder.id)


def start_from(name: str, home: Path, out: Path) -> dict[str, Any]:
    """Copy the encoder into `out/encoder`; beside it, in `untrained`, a network and a head with other, random weights.

    Raises:
        InvalidInput: there is none.
    """
    found = find_candidate(name, home)
    shutil.copytree(found.folder, out / "encoder")
    blank = found.untrained()
    identity = save_encoder(blank.encoder, out / "untrained", lineage={"seed": 0})
    if blank.head is not None:
        weights = {f"head.{name}": value for name, value in blank.head.state_dict().items()}
        save_head(blank.head.config, weights, out / "untrained", encoder_id=identity)
    return {"encoder_id": found.encoder.id, "from": name}
