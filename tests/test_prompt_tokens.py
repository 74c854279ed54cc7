"""Token counts of images against the numbers that are published for the rules."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from viewfold.retrieval.prompt import TOKEN_COUNTERS, text_tokens


@pytest.mark.parametrize(
    ("counter", "width", "height", "tokens"),
    [
        ("openai_tiles", 1024, 1024, 765),
        ("openai_tiles", 2048, 4096, 1105),
        ("openai_tiles", 96, 96, 255),
        ("openai_tiles", 513, 512, 425),
        ("openai_tiles", 1, 20000, 85 + 170 * 4),
        ("openai_low", 2048, 4096, 85),
        ("qwen2_vl", 96, 96, 9),
        ("qwen2_vl", 224, 224, 64),
        ("qwen2_vl", 600, 450, 336),
        ("qwen2_vl", 1024, 1024, 1369),
        ("qwen2_vl", 1, 1, 4),
        ("qwen2_vl", 28 * 128, 28 * 128, 16384),
        ("qwen2_vl", 28 * 256, 28 * 256, 16384),
    ],
)
def test_an_image_takes_the_tokens_of_its_family(counter: str, width: int, height: int, tokens: int) -> None:
    assert TOKEN_COUNTERS[counter](width, height) == tokens


@pytest.mark.parametrize("counter", sorted(TOKEN_COUNTERS))
@given(sides=st.tuples(st.integers(1, 9000), st.integers(1, 9000)))
@settings(max_examples=40, deadline=None)
def test_counts_do_not_depend_on_which_side_is_the_longer(counter: str, sides: tuple[int, int]) -> None:
    count = TOKEN_COUNTERS[counter]
    assert 4 <= count(*sides) == count(*reversed(sides)) <= 16384


def test_text_is_estimated_by_its_bytes() -> None:
    assert (text_tokens(""), text_tokens("abcd"), text_tokens("\u732b" * 5)) == (0, math.ceil(4 / 3), 5)
