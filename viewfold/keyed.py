"""Random numbers that are a function of a key, never of what was drawn before.

A draw is addressed by (seed, epoch, sample key, view, field): the same on any number of workers and in any batch order,
and any single one can be made again on its own. Counter based: splitmix64 (Steele, Lea, Flood 2014) over a hashed key.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def key64(*parts: str | int) -> int:
    """A 64-bit key for a sequence of names and integers, the same on every machine and in every process."""
    text = "\x1f".join(f"{type(part).__name__[0]}{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def uniforms(keys: Sequence[int] | NDArray[np.uint64], num_draws: int) -> NDArray[np.float64]:
    """`[len(keys), num_draws]` numbers in [0, 1); row i depends on `keys[i]` alone."""
    with np.errstate(over="ignore"):  # wrapping around 2**64 is the algorithm
        counter = np.arange(1, num_draws + 1, dtype=np.uint64) * _GOLDEN
        bits = mixed(np.asarray(keys, dtype=np.uint64)[:, None] + counter[None, :])
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every bit of each number depends on every bit of the one given: splitmix64's last steps."""
    with np.errstate(over="ignore"):
        bits = (values ^ (values >> np.uint64(30))) * _MIX_1
        bits = (bits ^ (bits >> np.uint64(27))) * _MIX_2
    return bits ^ (bits >> np.uint64(31))


def generator(*parts: str | int) -> np.random.Generator:
    """A NumPy generator that belongs to these parts alone, for permutations and choices."""
    return np.random.Generator(np.random.Philox(key=key64(*parts)))
