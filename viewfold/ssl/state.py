"""The state of an engine in one safetensors file: the same for every engine, number of ranks and ZeRO stage.

A tensor's name is its kind and, after a slash, the parameter's own: `weights/` (buffers too), and what Adam keeps of a
parameter, `step/`, `exp_avg/` and `exp_avg_sq/`; a parameter that was never updated has none of the three.

Rank 0 writes all of it, 12 bytes a weight, and needs the memory of one tensor for that. DeepSpeed's own checkpoints are
written by all ranks at once, but as pickles that fit one number of ranks, or go through a conversion between two runs.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from viewfold.errors import InvalidInput
from viewfold.ssl.dist import rank

FILE = "engine.safetensors"
WEIGHTS = "weights/"
MOMENTS = ("exp_avg", "exp_avg_sq")
"""What Adam keeps of a parameter, in its shape."""

_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The format's word for each type: https://github.com/huggingface/safetensors#format."""


class Piece(NamedTuple):
    """One tensor of a state."""

    like: Tensor
    """A tensor of its shape and type, on the meta device."""
    whole: Callable[[], Tensor]
    """Brings it together: a call of all ranks, of which rank 0's answer counts."""


class State:
    """A state that is being read, one tensor at a time."""

    def __init__(self, file: Any, where: Path) -> None:
        self._file, self.where = file, where
        self._names = frozenset(file.keys())
        self.steps_done = int(file.metadata()["steps_done"])
        """Updates that the run had taken."""

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of this name, on the CPU."""
        value: Tensor = self._file.get_tensor(name)
        return value

    def require_weights(self, shapes: Mapping[str, torch.Size]) -> None:
        """Check that the weights are those of a method with these parameters and buffers.

        Raises:
            InvalidInput: they are of another; names the first difference.
        """
        saved = {name.removeprefix(WEIGHTS) for name in self._names if name.startswith(WEIGHTS)}
        for name in sorted(saved | shapes.keys()):
            there = tuple(self._file.get_slice(f"{WEIGHTS}{name}").get_shape()) if name in saved else None
            here = tuple(shapes[name]) if name in shapes else None
            if there != here:
                raise InvalidInput(
                    f"{self.where}: these are the weights of another method or encoder ({name} is {_words(there)} "
                    f"there and {_words(here)} here); resume with the configuration that began the run"
                )


def write_state(folder: Path, pieces: Mapping[str, Piece], *, steps_done: int) -> None:
    """Write `pieces` to `folder` on rank 0. A call of all ranks, with the same pieces in the same order.

    They are brought together and written one by one, so that no rank ever holds more than one beyond its own state.
    """
    header, places = _layout(pieces, {"steps_done": str(steps_done)})
    if rank() != 0:
        for piece in pieces.values():
            piece.whole()
        return
    with (folder / FILE).open("wb") as file:
        file.write(header)
        for name, piece in pieces.items():
            file.seek(len(header) + places[name])
            file.write(_bytes(piece.whole()))


@contextmanager
def read_state(folder: Path) -> Iterator[State]:
    """The state that `write_state` left in `folder`.

    Raises:
        InvalidInput: there is none, or it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise InvalidInput(
            f"{folder}: no engine wrote its state there (it has no {FILE}); name a step-N folder of a run"
        )
    try:
        file = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise InvalidInput(f"{path}: damaged ({error}); resume from an older step-N folder") from None
    with file as opened:
        yield State(opened, path)


def plain_pieces(method: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Piece]:
    """Weights and optimizer state of a `method` of which every rank holds all."""
    named = {f"{WEIGHTS}{name}": value for name, value in method.state_dict().items()}
    for name, parameter in method.named_parameters():
        named |= {f"{key}/{name}": value for key, value in optimizer.state.get(parameter, {}).items()}
    return {name: Piece(value.to("meta"), value.detach) for name, value in named.items()}


@torch.no_grad()
def take_plain(method: nn.Module, optimizer: torch.optim.Optimizer, state: State) -> None:
    """Put `state` into a `method` and its Adam, of which every rank holds all."""
    for name, value in method.state_dict().items():
        value.copy_(state[f"{WEIGHTS}{name}"])
    optimizer.state.clear()
    for name, parameter in method.named_parameters():
        if f"step/{name}" in state:
            # The fused update walks through memory as it lies, so that a moment must lie as its parameter does.
            moments = {key: torch.empty_like(parameter).copy_(state[f"{key}/{name}"]) for key in MOMENTS}
            # Copied, too: what `state` gives lies in the file, which the next checkpoint may overwrite.
            step = state[f"step/{name}"].to(parameter.device, copy=True)
            optimizer.state[parameter] = {"step": step, **moments}


def _layout(pieces: Mapping[str, Piece], facts: dict[str, str]) -> tuple[bytes, dict[str, int]]:
    """The header of the file, and where each tensor's bytes begin behind it."""
    entries: dict[str, Any] = {"__metadata__": facts}
    places: dict[str, int] = {}
    end = 0
    # Wide types first, as safetensors does: every tensor then begins at a multiple of its own width.
    for name, piece in sorted(pieces.items(), key=lambda item: -item[1].like.itemsize):
        places[name], end = end, end + piece.like.nbytes
        entries[name] = {
            "dtype": _TYPES[piece.like.dtype],
            "shape": list(piece.like.shape),
            "data_offsets": [places[name], end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, places


def _bytes(value: Tensor) -> memoryview:
    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _words(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"of shape {list(shape)}"
