"""Budgets: shrink, recompress, drop the least similar; never the query, nor the last of a class that must stay."""

import io
from functools import cache

import numpy as np
import pytest
from PIL import Image

from viewfold.config import parse
from viewfold.errors import InvalidInput
from viewfold.retrieval.prompt import BudgetConfig, Fitted, PromptImage, PromptSpec, Ranked, Shown, fit, prompt_image
from viewfold.retrieval.prompt.images import MediaType

CLASSES = ["a", "b", "c"]
SPEC = PromptSpec()


@cache
def image(width: int = 160, height: int = 120, media: MediaType = "image/png") -> PromptImage:
    blobs = np.random.default_rng(0).integers(0, 256, size=(24, 32, 3), dtype=np.uint8)
    picture = Image.fromarray(blobs).resize((width, height), Image.Resampling.BICUBIC)
    return prompt_image(picture_bytes(picture), media=media)


def picture_bytes(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def demonstrations(labels: str = "abab") -> list[Ranked]:
    """The nearest last, as prompts have them: rank 1 for the last."""
    return [
        Ranked(f"{label}{len(labels) - number}", len(labels) - number, Shown(label, image()))
        for number, label in enumerate(labels)
    ]


def fitted(config: BudgetConfig, labels: str = "abab", required: set[str] | None = None) -> Fitted:
    return fit(demonstrations(labels), image(), config, spec=SPEC, classes=CLASSES, required=required or set())


def test_what_fits_is_left_as_it_is() -> None:
    free = fitted(BudgetConfig())
    assert [item.image for item in free.shown] == [image()] * 4
    assert (free.query, free.dropped, free.notes) == (image(), [], [])
    exact = BudgetConfig(
        max_images=free.cost.images,
        max_pixels=free.cost.pixels,
        max_image_tokens=free.cost.image_tokens,
        max_prompt_tokens=free.cost.prompt_tokens,
        max_bytes=free.cost.bytes,
    )
    assert fitted(exact) == free


def test_images_are_shrunk_together_before_any_is_dropped() -> None:
    result = fitted(BudgetConfig(max_pixels=5 * 128 * 96, min_side=64))
    assert {(item.image.width, item.image.height) for item in result.shown} == {(128, 96)}
    assert (result.query.width, result.query.height) == (128, 96)
    assert result.notes == ["images shrunk to a longer side of 128 px to keep max_pixels"]
    assert result.dropped == []


def test_they_are_recompressed_only_after_shrinking_and_only_for_bytes() -> None:
    smallest_png = fitted(BudgetConfig(max_pixels=5 * 64 * 48, min_side=64)).cost.bytes
    result = fitted(BudgetConfig(max_bytes=smallest_png - 1, min_side=64))
    assert result.notes == [
        "images shrunk to a longer side of 64 px and recompressed as JPEGs of quality 75 to keep max_bytes"
    ]
    assert {item.image.media_type for item in result.shown} == {"image/jpeg"}
    assert result.cost.bytes < smallest_png
    lossless = fitted(BudgetConfig(max_bytes=smallest_png - 1, min_side=64, recompress=False))
    assert lossless.dropped == ["a4"]
    assert {item.image.media_type for item in lossless.shown} == {"image/png"}


def test_the_least_similar_are_dropped_in_turn_and_the_order_is_kept() -> None:
    result = fitted(BudgetConfig(max_images=3))
    assert [item.label for item in result.shown] == ["a", "b"]
    assert result.dropped == ["a4", "b3"]
    assert result.notes == [
        "dropped a4 ('a', rank 4) to keep max_images",
        "dropped b3 ('b', rank 3) to keep max_images",
    ]
    assert result.query == image()  # no shrinking helps against too many images


def test_what_is_left_gets_the_largest_size_that_fits() -> None:
    # Each image is one tile at any size here, so that shrinking would have been for nothing.
    result = fitted(BudgetConfig(max_image_tokens=3 * 255, min_side=64))
    assert len(result.dropped) == 2
    assert (result.query, [item.image for item in result.shown]) == (image(), [image()] * 2)


def test_the_last_demonstration_of_a_required_class_stays() -> None:
    result = fitted(BudgetConfig(max_images=3), labels="cbaaa", required={"b", "c"})
    assert [item.label for item in result.shown] == ["c", "b"]
    assert result.dropped == ["a3", "a2", "a1"]


def test_what_must_stay_and_does_not_fit_is_refused_with_its_size() -> None:
    with pytest.raises(
        InvalidInput, match=r"the 2 demonstrations that must stay .* takes 3 of max_images=2; raise that"
    ):
        fitted(BudgetConfig(max_images=2), labels="ccb", required={"b", "c"})
    with pytest.raises(InvalidInput, match=r"the 0 demonstrations .* takes 3072 of max_pixels=1000.*min_side=64"):
        fitted(BudgetConfig(max_pixels=1000, min_side=64))


@pytest.mark.parametrize(
    ("limit", "part"),
    [
        ("max_pixels", "pixels"),
        ("max_image_tokens", "image_tokens"),
        ("max_prompt_tokens", "prompt_tokens"),
        ("max_bytes", "bytes"),
    ],
)
@pytest.mark.parametrize("share", [0.9, 0.6])
def test_every_limit_is_kept_and_the_same_arguments_give_the_same_prompt(limit: str, part: str, share: float) -> None:
    free = getattr(fitted(BudgetConfig()).cost, part)
    config = parse(BudgetConfig, {limit: int(free * share), "min_side": 64, "counter": "qwen2_vl"})
    result = fitted(config)
    assert getattr(result.cost, part) <= int(free * share)
    assert result == fitted(config)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_images": 0}, "max_images must be 1 or more"),
        ({"min_side": 0}, "min_side must be 1 or more"),
        ({"counter": "qwen"}, "unknown counter 'qwen'.*qwen2_vl"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse(BudgetConfig, wrong)
