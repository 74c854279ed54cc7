"""Where a run stands, and the folders that keep it: `step-N/`, whole or not there.

A checkpoint holds what the engine keeps (weights, optimizer), `progress.json`, and the state of torch's generators of
every rank. Nothing else may influence the next step, so a run that was cut and resumed equals one that never stopped.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from viewfold.errors import InvalidInput
from viewfold.folders import make_part, publish
from viewfold.ssl.dist import rank, sum_over_ranks, world_size
from viewfold.ssl.engine import AbstractEngine
from viewfold.values import Batch


@dataclass
class Progress:
    """Where a run stands. The position in the stream follows from `step`: global batches are a pure function of it."""

    step: int = 0
    """Optimizer steps taken."""
    samples: int = 0
    """Samples seen, by all ranks together."""
    epoch: int = 0
    """Epoch of the last sample that this rank saw."""

    def advance(self, batch: Batch) -> int:
        """Count one step on this rank's `batch`; returns the size of the global batch."""
        num_samples = len(batch.keys) * world_size()
        self.step += 1
        self.samples += num_samples
        self.epoch = int(batch.epochs.max())
        return num_samples


def save_checkpoint(root: Path, engine: AbstractEngine, progress: Progress, *, keep: int = 2) -> Path:
    """Write `root/step-N` from all ranks, which share `root`, and leave the newest `keep` checkpoints there.

    A call of all ranks. Whoever reads `root` sees a checkpoint whole or not at all.
    """
    folder = root / f"step-{progress.step}"
    part = folder.with_name(f"{folder.name}.part")
    if rank() == 0:
        make_part(folder)
    _barrier()
    fill_checkpoint(part, engine, progress)
    _barrier()
    if rank() == 0:
        publish(part, folder)
        for old in _checkpoints(root)[:-keep]:
            shutil.rmtree(old)
    _barrier()
    return folder


def fill_checkpoint(folder: Path, engine: AbstractEngine, progress: Progress) -> None:
    """This rank's files of a checkpoint, for storage that gathers one folder from each rank. A call of all ranks."""
    engine.save(folder)
    save_file(_random_states(engine.device), folder / f"random-{rank()}.safetensors")
    if rank() == 0:
        (folder / "progress.json").write_text(json.dumps(asdict(progress)) + "\n", encoding="utf-8")


def load_checkpoint(folder: Path, engine: AbstractEngine) -> Progress:
    """Put `engine` and torch's generators back to where `folder` was written. A call of all ranks.

    Raises:
        InvalidInput: not a checkpoint, or one that this engine cannot continue.
    """
    path = folder / "progress.json"
    if not path.is_file():
        raise InvalidInput(f"{folder}: no checkpoint there (it has no progress.json); name a step-N folder of a run")
    progress = Progress(**json.loads(path.read_text(encoding="utf-8")))
    engine.load(folder)
    random = folder / f"random-{rank()}.safetensors"
    if random.is_file():  # a rank that the saved run did not have starts from its own seed
        states = load_file(random)
        torch.set_rng_state(states["cpu"])
        if "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], engine.device)
    return progress


def latest_checkpoint(root: Path) -> Path | None:
    """The whole checkpoint with the highest step under `root`, if there is one."""
    found = _checkpoints(root)
    return found[-1] if found else None


def _checkpoints(root: Path) -> list[Path]:
    """Whole checkpoints, oldest first; those being written end in `.part`."""
    steps = {int(p.name[5:]): p for p in root.glob("step-*") if p.name[5:].isdigit()}
    return [steps[step] for step in sorted(steps)]


def _random_states(device: torch.device) -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _barrier() -> None:
    sum_over_ranks(torch.zeros(1))
