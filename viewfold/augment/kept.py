"""Constants that are computed once and then kept: small tensors that many calls need and that nobody writes to."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def kept(build: Callable[..., T]) -> Callable[..., T]:
    """`build`, whose results for the last 64 different arguments are kept; while compiling it is traced as it is."""
    keep = functools.lru_cache(maxsize=64)(build)

    @functools.wraps(build)
    def call(*args: Any) -> T:
        return build(*args) if torch.compiler.is_compiling() else keep(*args)

    return call
