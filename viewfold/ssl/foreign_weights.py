"""Weights of other projects: read from a file without running anything in it, given our names, loaded whole."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from viewfold.errors import InvalidInput

ENDINGS = (".safetensors", ".pt", ".pth", ".bin")
"""What a file of weights may end with; all but the first are read as torch files."""
_WRAPPED = ("state_dict", "model", "model_state_dict")  # where training scripts put the weights within a file
_NAMED = 4  # keys that an error lists


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or a torch file (read with `weights_only`), by their names in it.

    Raises:
        InvalidInput: no such file, one that cannot be read, or one without tensors.
    """
    if not path.is_file():
        raise InvalidInput(f"{path}: no such file; name the weights ({', '.join(ENDINGS)}), or `hub` to download them")
    try:
        found: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # unpickling may raise whatever a damaged or foreign file leads it to
        reason = " ".join(str(error).split())[:160] or type(error).__name__  # EOFError of an empty file says nothing
        raise InvalidInput(
            f"{path}: not weights that can be read safely ({reason}); save its state_dict alone"
        ) from None
    for name in _WRAPPED:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    tensors = {k: v for k, v in found.items() if isinstance(v, Tensor)} if isinstance(found, Mapping) else {}
    if not tensors:
        raise InvalidInput(f"{path}: holds no tensors by name; save the model's state_dict")
    return {key.removeprefix("module."): value for key, value in tensors.items()}


def with_positions(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A ViT's weights with its grid of position embeddings resized to that of `model`."""
    here, given = model.state_dict().get("pos_embed"), weights.get("pos_embed")
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if here is None or given is None or grid is None or here.shape == given.shape:
        return weights
    num_prefix = here.shape[1] - grid[0] * grid[1]
    return {**weights, "pos_embed": resample_abs_pos_embed(given, list(grid), num_prefix_tokens=num_prefix)}


def load_whole(model: nn.Module, weights: Mapping[str, Tensor], *, dropped: tuple[str, ...], where: str) -> None:
    """Load `weights` into `model`, all but those of the layers `dropped`.

    Raises:
        InvalidInput: one is missing, left over, or of another shape; lists some and opens with `where`.
    """
    prefixes = tuple(f"{layer}." for layer in dropped)
    kept = {key: value for key, value in weights.items() if not (prefixes and key.startswith(prefixes))}
    own = model.state_dict()
    both = [key for key in kept if key in own and own[key].shape != kept[key].shape]
    shapes = [f"{key} {tuple(kept[key].shape)} for {tuple(own[key].shape)}" for key in both]
    missing = [key for key in own if key not in kept and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in kept if key not in own]
    problems = [
        f"{len(keys)} {what} ({', '.join(keys[:_NAMED])}{', ...' if len(keys) > _NAMED else ''})"
        for what, keys in (("missing", missing), ("left over", unexpected), ("of another shape", shapes))
        if keys
    ]
    if problems:
        raise InvalidInput(f"{where}: not the weights of this backbone: {'; '.join(problems)}; name another backbone")
    model.load_state_dict(kept)
