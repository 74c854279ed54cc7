"""Parameters that vary over an image: a number for the whole of it plus a random field."""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from viewfold.augment.draws import normal_pairs, uniforms
from viewfold.augment.fields import FieldConfig, draw_fields, synthesise
from viewfold.augment.frame import Frame


def smooth_names(names: Sequence[str], config: FieldConfig) -> tuple[str, ...]:
    """The columns of `draw_smooth`: for each name its global term, then its cosines and sines by (y, x) wave number."""
    modes = config.modes.tolist()
    waves = [f"{wave}({y},{x})" for wave in ("cos", "sin") for y, x in modes]
    return tuple(f"{name} {part}" for name in names for part in ("global", *waves))


def draw_smooth(
    keys: Int64[Tensor, " batch"],
    sds: Mapping[str, float],
    config: FieldConfig,
    *,
    global_share: float,
    probability: float,
) -> Float[Tensor, "batch draw"]:
    """Parameters that vary over an image, sd (sqrt(share) z + sqrt(1 - share) f(p)): columns as `smooth_names` says.

    `sds` are the standard deviations by name, `global_share` is the part of the variance that is one number z for the
    image, and all columns are 0 for the rows that `probability` leaves alone.
    """
    names = tuple(sds)
    strength = torch.tensor(list(sds.values()), device=keys.device)[:, None]
    values = draw_fields(keys, names, config) * math.sqrt(1 - global_share)
    values[:, :, 0] = normal_pairs(keys, [f"{name} global" for name in names], 1)[:, :, 0, 0] * math.sqrt(global_share)
    chosen = uniforms(keys, [f"{names[0]} chosen"]) < probability
    return (values * strength * chosen[:, :, None]).flatten(1)


def smooth_values(
    draws: Float[Tensor, "batch draw"], frame: Frame, config: FieldConfig
) -> Float[Tensor, "batch field rows columns"]:
    """What `draw_smooth` drew, at the nodes of the frame."""
    num_waves = 1 + 2 * len(config.modes)
    return synthesise(draws.reshape(len(draws), draws.shape[1] // num_waves, num_waves), frame, config)
