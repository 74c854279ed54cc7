"""Where a run stands, and the folders that keep it: `step-N/`, whole or not there.

A checkpoint holds the engine's state (weights, optimizer), `progress.json`, and the state of torch's generators of
every rank. Nothing else may influence the next step, so a run that was cut and resumed equals one that never stopped.
All of it is written by rank 0 and fits any number of ranks; a rank that the saved run did not have goes on with the
generators that it has. They decide no more than what layers drop: batches, views and weights never come from them.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from viewfold.errors import InvalidInput
from viewfold.folders import make_part, publish
from viewfold.ssl.dist import gather_values, rank, sum_over_ranks, world_size
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
    _barrier(engine.device)
    fill_checkpoint(part, engine, progress)
    _barrier(engine.device)
    if rank() == 0:
        publish(part, folder)
        for old in _checkpoints(root)[:-keep]:
            shutil.rmtree(old)
    _barrier(engine.device)
    return folder


def fill_checkpoint(folder: Path, engine: AbstractEngine, progress: Progress) -> None:
    """Write the files of a checkpoint into rank 0's `folder`; those of other ranks stay empty. A call of all ranks."""
    engine.save(folder)
    random = {name: gather_values(state[None]).cpu() for name, state in _random_states(engine.device).items()}
    if rank() == 0:
        save_file(random, folder / "random.safetensors")
        (folder / "progress.json").write_text(json.dumps(asdict(progress)) + "\n", encoding="utf-8")


def load_checkpoint(folder: Path, engine: AbstractEngine) -> Progress:
    """Put `engine` and torch's generators back to where `folder` was written. A call of all ranks, however many.

    Raises:
        InvalidInput: not a checkpoint, or one that this engine cannot continue.
    """
    path = folder / "progress.json"
    if not path.is_file():
        raise InvalidInput(f"{folder}: no checkpoint there (it has no progress.json); name a step-N folder of a run")
    progress = Progress(**json.loads(path.read_text(encoding="utf-8")))
    engine.load(folder)
    random = load_file(folder / "random.safetensors")
    if rank() < len(random["cpu"]):
        # A row of a file lies anywhere in memory, and torch 2.14 crashes on a state that is not aligned to its words.
        torch.set_rng_state(random["cpu"][rank()].clone())
        if "cuda" in random and engine.device.type == "cuda":
            torch.cuda.set_rng_state(random["cuda"][rank()].clone(), engine.device)
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
    """As bytes on `device`, where ranks can exchange them."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return {name: state.to(device) for name, state in states.items()}


def _barrier(device: torch.device) -> None:
    sum_over_ranks(torch.zeros(1, device=device))
