"""How many tokens an image or a text takes in a prompt: the published rules of the families, and an estimate for text.

Rules differ from model to model and change; where the server reports what it counted (`Completion.prompt_tokens`),
that is the truth. Another rule is a line of `TOKEN_COUNTERS`.
"""

import math
from collections.abc import Callable
from fractions import Fraction

_TILE, _BASE_TOKENS, _TILE_TOKENS = 512, 85, 170
_FIT_LONG, _FIT_SHORT = 2048, 768
_PATCH = 28
_MIN_PATCHES, _MAX_PATCHES = 4, 16384


def openai_tiles(width: int, height: int) -> int:
    """GPT-4o family, high detail: fitted into 2048 x 2048, its short side to 768, then tiles of 512 x 512."""
    # Exact fractions: 512.0000001 would be a second tile.
    scale = min(Fraction(1), Fraction(_FIT_LONG, max(width, height)))
    scale *= min(Fraction(1), Fraction(_FIT_SHORT) / (scale * min(width, height)))
    tiles = math.ceil(width * scale / _TILE) * math.ceil(height * scale / _TILE)
    return _BASE_TOKENS + _TILE_TOKENS * tiles


def openai_low(width: int, height: int) -> int:
    """GPT-4o family, low detail: the same for every image."""
    return _BASE_TOKENS


def qwen2_vl(width: int, height: int) -> int:
    """Qwen2-VL and Qwen2.5-VL: sides rounded to multiples of 28, one token for each 28 x 28, within 4..16384."""
    columns, rows = (max(1, round(side / _PATCH)) for side in (width, height))
    area = width * height / _PATCH**2
    if columns * rows > _MAX_PATCHES:
        shrink = math.sqrt(_MAX_PATCHES / area)
        columns, rows = (max(1, math.floor(side / _PATCH * shrink)) for side in (width, height))
    elif columns * rows < _MIN_PATCHES:
        grow = math.sqrt(_MIN_PATCHES / area)
        columns, rows = (math.ceil(side / _PATCH * grow) for side in (width, height))
    return columns * rows


TOKEN_COUNTERS: dict[str, Callable[[int, int], int]] = {
    "openai_tiles": openai_tiles,
    "openai_low": openai_low,
    "qwen2_vl": qwen2_vl,
}
"""Tokens of an image of (width, height) pixels."""


def text_tokens(text: str) -> int:
    """Estimate, on the high side: one token for every three bytes (English takes about four, CJK about three)."""
    return math.ceil(len(text.encode()) / 3)
