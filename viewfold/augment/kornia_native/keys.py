"""Draws by key inside Kornia: what its modules draw is a function of one integer key for each sample.

By default Kornia's habits hold: the keys come from torch's global generator, which `torch.manual_seed` controls. Inside
`keyed` they are the caller's, such as those of `draws.view_keys`, and no global generator is read or moved.
"""

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int64
from kornia.augmentation import AugmentationBase2D
from kornia.augmentation.random_generator.base import RandomGeneratorBase
from torch import Tensor, nn

from viewfold.augment.draws import uniforms
from viewfold.augment.field_colour import FieldColour, FieldColourConfig
from viewfold.augment.field_warp import FieldWarp, FieldWarpConfig
from viewfold.augment.haar import HaarAffine, HaarAffineConfig
from viewfold.augment.transform import Transform
from viewfold.config import Config, dump, parse
from viewfold.errors import InvalidInput

_FAMILIES: dict[str, tuple[type[Config], Callable[[Any], Transform]]] = {
    "FieldColourConfig": (FieldColourConfig, FieldColour),
    "FieldWarpConfig": (FieldWarpConfig, FieldWarp),
    "HaarAffineConfig": (HaarAffineConfig, HaarAffine),
}
"""The families that can be drawn, by the name of their configuration's class."""


class KeyedGenerator(RandomGeneratorBase):
    """Draws the numbers of a family: the param `draws`, float32 `[batch, draw]`, one row for each sample."""

    keys: Int64[Tensor, " batch"] | None = None
    """The keys of the next batch's samples; None takes them from torch's global generator. `keyed` sets them."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._family, self._config = type(config).__name__, json.dumps(dump(config))
        self._num_draws = len(_family(self._family, self._config).names)

    def make_samplers(self, device: torch.device, dtype: torch.dtype) -> None:
        """Nothing to prepare: keys are drawn on the generator's device, and draws are float32 whatever `dtype` is."""

    def sample_keys(self, batch: int, same_on_batch: bool) -> Int64[Tensor, " rows"]:
        """One key for each sample, or a single one for all.

        Raises:
            InvalidInput: the number of the caller's keys is not the number of samples.
        """
        rows = 1 if same_on_batch else batch
        if self.keys is None:
            return torch.randint(2**63 - 1, (rows,), device=self.device)
        if len(self.keys) != batch:
            raise InvalidInput(f"{len(self.keys)} keys for a batch of {batch}: hand `keyed` one key for each sample")
        return self.keys[:rows]

    def forward(self, batch_shape: tuple[int, ...], same_on_batch: bool = False) -> dict[str, Tensor]:
        """The params of a batch; with `same_on_batch` its rows are one row in memory."""
        keys = self.sample_keys(batch_shape[0], same_on_batch)
        draws = _draw(keys, self._family, self._config, self._num_draws)
        return {"draws": draws.expand(batch_shape[0], -1)}

    def extra_repr(self) -> str:
        """For Kornia's description of the augmentation."""
        return f"{self._family}({self._config})"


class KeyedAugmentation(AugmentationBase2D):
    """What viewfold's Kornia modules share: the params are `draws`, a few kB an image, the same for any resolution."""

    _param_generator: KeyedGenerator

    def __init__(self, config: Config, *, p: float, same_on_batch: bool, keepdim: bool) -> None:
        super().__init__(p=p, same_on_batch=same_on_batch, keepdim=keepdim)
        self._param_generator = KeyedGenerator(config)

    def __batch_prob_generator__(
        self, batch_shape: tuple[int, ...], p: float, p_batch: float, same_on_batch: bool
    ) -> Tensor:
        """Kornia's gate, from the keys too where they are the caller's."""
        if self._param_generator.keys is None:
            return super().__batch_prob_generator__(batch_shape, p, p_batch, same_on_batch)
        keys = self._param_generator.sample_keys(batch_shape[0], same_on_batch)
        chosen = uniforms(keys, [f"{type(self).__name__} applied"])[:, 0] < p
        return chosen.to(self.dtype).expand(batch_shape[0])


@contextmanager
def keyed(module: nn.Module, keys: Int64[Tensor, " batch"]) -> Iterator[None]:
    """While it lasts, viewfold's augmentations in `module` (one of them, or a container) draw by these keys.

    Sample i gets what `keys[i]` stands for, in any batch and at any place in it; Kornia's own augmentations go on
    drawing from torch's global generator. Two of one class would draw alike, so they are refused: key each of them on
    its own, with the keys of different views.

    Raises:
        InvalidInput: `module` holds none of viewfold's augmentations, or two of one class.
    """
    found = [child for child in module.modules() if isinstance(child, KeyedAugmentation)]
    if not found or len(found) != len({type(child) for child in found}):
        names = ", ".join(type(child).__name__ for child in found) or "none"
        raise InvalidInput(f"keyed: needs one or more of viewfold's augmentations, no two of one class; found {names}")
    generators = [child._param_generator for child in found]
    try:
        for generator in generators:
            generator.keys = keys
        yield
    finally:
        for generator in generators:
            generator.keys = None


# An operator of its own: a compiled graph calls it as it is, so that draws are the same bits compiled or not.
@torch.library.custom_op("viewfold::draw", mutates_args=())
def _draw(keys: Tensor, family: str, config: str, num_draws: int) -> Tensor:
    with torch.autocast(keys.device.type, enabled=False):
        return _family(family, config).draw(keys)


@_draw.register_fake
def _draw_shape(keys: Tensor, family: str, config: str, num_draws: int) -> Tensor:
    return keys.new_empty(len(keys), num_draws, dtype=torch.float32)


@functools.cache
def _family(family: str, config: str) -> Transform:
    config_type, build = _FAMILIES[family]
    return build(parse(config_type, json.loads(config)))
