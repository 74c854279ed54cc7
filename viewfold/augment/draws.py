"""Counter-based draws on any device: each number is a function of its address, never of what was drawn before.

The address is (seed, epoch, sample key, view, column), and for a field its mode. Adding a column, a family, a mode, a
sample or a rank changes no other draw, and no global generator is read or moved. Same bits as `viewfold.keyed`
(splitmix64) in int64 tensors, so that a GPU draws its own numbers.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from viewfold.keyed import key64

_GOLDEN, _MIX_1, _MIX_2 = (x - 2**64 for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def view_keys(seed: int, epochs: Sequence[int], samples: Sequence[str], view: int) -> Int64[Tensor, " batch"]:
    """One key for each sample's view number `view`, the same whatever batch the sample sits in."""
    keys = [key64(seed, epoch, sample, view) for epoch, sample in zip(epochs, samples, strict=True)]
    return torch.tensor([_signed(key) for key in keys], dtype=torch.int64)


def uniforms(keys: Int64[Tensor, " batch"], columns: Sequence[str]) -> Float64[Tensor, "batch column"]:
    """Numbers in [0, 1), one for each key and column name."""
    return (_bits(_addresses(keys, "column", columns) + _GOLDEN) >> 11 & (1 << 53) - 1).double() * 2.0**-53


def uniforms_between(
    keys: Int64[Tensor, " batch"], ranges: Mapping[str, tuple[float, float]]
) -> Float[Tensor, "batch column"]:
    """Float32 numbers, column `name` uniform between the two ends of `ranges[name]`."""
    low, high = torch.tensor(list(ranges.values()), dtype=torch.float64, device=keys.device).unbind(1)
    return (low + (high - low) * uniforms(keys, list(ranges))).float()


def normal_pairs(
    keys: Int64[Tensor, " batch"], columns: Sequence[str], num: int
) -> Float[Tensor, "batch column 2 num"]:
    """`num` pairs of independent standard normal float32 numbers for each key and column (Box-Muller).

    Pair i does not depend on `num`. No number is beyond 6.7: the 32 bits of a radius end there.
    """
    counter = torch.arange(1, num + 1, device=keys.device) * _GOLDEN
    bits = _bits(_addresses(keys, "field", columns)[..., None] + counter)
    low = 2**32 - 1
    radius = (((bits >> 32 & low).float() + 1) * 2.0**-32).log_().mul_(-2).clamp_(min=0).sqrt_()
    angle = (bits & low).float() * (2 * torch.pi * 2.0**-32)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=2)


def _addresses(keys: Int64[Tensor, " batch"], kind: str, columns: Sequence[str]) -> Int64[Tensor, "batch column"]:
    # One hash a sample and view, mixed with one a column: hashing each draw would cost as much as a colour jitter.
    names = torch.tensor([_signed(key64(kind, name)) for name in columns], dtype=torch.int64, device=keys.device)
    return keys[:, None] ^ names


def _bits(state: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """The finaliser of splitmix64; products wrap around, and the masks make arithmetic shifts logical."""
    state = (state ^ (state >> 30 & (1 << 34) - 1)) * _MIX_1
    state = (state ^ (state >> 27 & (1 << 37) - 1)) * _MIX_2
    return state ^ (state >> 31 & (1 << 33) - 1)


def _signed(key: int) -> int:
    return key - 2**64 if key >= 2**63 else key
