"""The stage `start`: a run that begins with an encoder which was trained before."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from viewfold.jobs.card import find_candidate
from viewfold.jobs.pair_folders import pinned
from viewfold.ssl.encoder import save_encoder
from viewfold.ssl.kept_head import save_head


def note_if_moved(name: str, home: Path, folder: Path) -> None:
    """Say so when `name` (a folder, a run folder, `models:/NAME@alias`) stands for another encoder than the run's own.

    A run keeps the encoder that it began with: an alias that moves, to this run's own result perhaps, must not have
    hours of work done again.
    """
    own = folder / "encoder" / "encoder.json"
    if not own.is_file():
        return
    began = json.loads(own.read_text(encoding="utf-8"))["id"]
    if (now := find_candidate(name, home).encoder.id) != began:
        print(
            f"note: {name} is encoder {now} now; this run keeps {began}, which it began with: name another folder with "
            f"--out to begin with the new one, or remove {folder}",
            file=sys.stderr,
        )


def start_from(name: str, home: Path, out: Path) -> dict[str, Any]:
    """Copy the encoder into `out/encoder`; beside it, in `untrained`, a network and a head with other, random weights.

    The answer's `from` says which version an alias stood for.

    Raises:
        InvalidInput: there is none.
    """
    exact, _ = pinned(name, home)
    found = find_candidate(exact, home)
    shutil.rmtree(out / "encoder", ignore_errors=True)  # of a copy that was cut
    shutil.copytree(found.folder, out / "encoder")
    blank = found.untrained()
    identity = save_encoder(blank.encoder, out / "untrained", lineage={"seed": 0})
    if blank.head is not None:
        weights = {f"head.{name}": value for name, value in blank.head.state_dict().items()}
        save_head(blank.head.config, weights, out / "untrained", encoder_id=identity)
    return {"encoder_id": found.encoder.id, "from": exact}
