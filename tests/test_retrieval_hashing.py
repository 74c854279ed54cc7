"""Hashes of image files."""

import hashlib
import io
import math

import numpy as np
import pytest
from PIL import Image, ImageOps

from viewfold.errors import InvalidInput
from viewfold.retrieval import image_hashes, perceptual_hash


def picture(seed: int = 0, size: int = 96) -> Image.Image:
    """Coarse random blobs: an image with structure at low frequencies."""
    blobs = np.random.default_rng(seed).integers(0, 256, size=(5, 5, 3), dtype=np.uint8)
    return Image.fromarray(blobs).resize((size, size), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def distance(a: str, b: str) -> int:
    return (int(a, 16) ^ int(b, 16)).bit_count()


def test_the_hash_is_the_sign_pattern_of_the_cosine_transform_written_as_a_sum() -> None:
    image = picture()
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=float)

    def coefficient(u: int, v: int) -> float:
        return sum(
            float(grey[x, y]) * math.cos(math.pi * u * (2 * x + 1) / 64) * math.cos(math.pi * v * (2 * y + 1) / 64)
            for x in range(32)
            for y in range(32)
        )

    low = [coefficient(u, v) for u in range(8) for v in range(8)]
    bits = "".join("1" if value > float(np.median(low)) else "0" for value in low)
    assert perceptual_hash(encoded(image)) == f"{int(bits, 2):016x}"


def test_the_hash_of_a_known_image_stays_what_imagehash_gives() -> None:
    ramp = np.add.outer(np.arange(64) * 2, np.arange(64)).astype(np.uint8)
    ramp[10:30, 35:60] = 200
    assert perceptual_hash(encoded(Image.fromarray(ramp))) == "93116e6e6e4a936c"


def test_recompression_and_resizing_move_few_bits_and_another_image_moves_many() -> None:
    original = perceptual_hash(encoded(picture()))
    assert distance(original, perceptual_hash(encoded(picture(), "JPEG", quality=60))) <= 4
    assert distance(original, perceptual_hash(encoded(picture().resize((50, 50))))) <= 4
    others = [distance(original, perceptual_hash(encoded(picture(seed)))) for seed in range(1, 9)]
    assert min(others) >= 16


def test_an_orientation_tag_is_applied_before_hashing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    turned = encoded(picture().transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    assert perceptual_hash(turned) == perceptual_hash(encoded(picture()))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_an_image_is_hashed_as_it_is_shown_whatever_way_round_it_is_stored(kind: str) -> None:
    for orientation in range(1, 10):  # there is no ninth
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = encoded(picture(), kind, exif=exif)
        shown = ImageOps.exif_transpose(Image.open(io.BytesIO(stored)))
        assert perceptual_hash(stored) == perceptual_hash(encoded(shown))


def test_both_hashes_come_together() -> None:
    data = encoded(picture())
    assert image_hashes(data) == (hashlib.sha256(data).hexdigest(), perceptual_hash(data))


@pytest.mark.parametrize("data", [b"", b"not an image", encoded(picture())[:200]], ids=["empty", "text", "half"])
def test_bytes_that_are_no_whole_image_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="not an image that can be hashed"):
        perceptual_hash(data)
