"""Image files to images of a prompt."""

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from viewfold.errors import InvalidInput
from viewfold.retrieval.prompt import prompt_image
from viewfold.retrieval.prompt.images import MAX_PIXELS, MediaType, reduced


def halves(width: int = 60, height: int = 40) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), (255, 0, 0))
    image.paste((0, 0, 255), (width // 2, 0, width, height))
    return image


def noise(width: int, height: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    return saved(Image.fromarray(pixels))


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize(("media", "kind"), [("image/jpeg", "JPEG"), ("image/png", "PNG")])
def test_the_data_uri_says_the_true_type_and_holds_the_bytes(media: MediaType, kind: str) -> None:
    image = prompt_image(saved(halves()), media=media)
    head, body = image.data_uri().split(",")
    assert head == f"data:{media};base64"
    assert base64.b64decode(body, validate=True) == image.data  # no space after the comma
    assert opened(image.data).format == kind
    assert opened(image.data).size == (image.width, image.height) == (60, 40)


def test_an_image_is_turned_upright_and_its_metadata_stays_here() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # stored lying on its side
    exif[ExifTags.Base.Make] = "a camera"
    stored = saved(halves().rotate(90, expand=True), "JPEG", exif=exif, quality=95, comment=b"a comment")
    for media in ("image/jpeg", "image/png"):
        image = prompt_image(stored, media=media)
        shown = opened(image.data)
        assert (shown.size, shown.mode) == ((60, 40), "RGB")
        assert np.asarray(shown)[20, 5, 0] > 200 > 60 > np.asarray(shown)[20, 55, 0]
        assert not shown.getexif()
        assert b"camera" not in image.data
        assert b"comment" not in image.data


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16", "CMYK", "1"])
def test_every_kind_of_pixels_becomes_rgb(mode: str) -> None:
    if mode == "I;16":
        data = saved(Image.fromarray(np.full((8, 8), 40000, dtype=np.uint16)))
    else:
        data = saved(halves().convert(mode), "TIFF")
    shown = opened(prompt_image(data, media="image/png").data)
    assert shown.mode == "RGB"
    if mode == "I;16":
        assert np.asarray(shown)[0, 0].tolist() == [40000 >> 8] * 3


def test_transparent_pixels_are_white() -> None:
    shown = opened(prompt_image(saved(Image.new("RGBA", (4, 4), (0, 0, 0, 0))), media="image/png").data)
    assert np.asarray(shown).min() == 255


def test_the_longer_side_is_kept_below_the_limit_and_small_images_are_left_alone() -> None:
    large = prompt_image(saved(halves(300, 200)), max_side=100, media="image/png")
    assert (large.width, large.height) == (100, 67) == opened(large.data).size
    small = prompt_image(saved(halves()), max_side=100, media="image/png")
    assert np.array_equal(np.asarray(opened(small.data)), np.asarray(halves()))


def test_the_same_file_gives_the_same_bytes() -> None:
    assert prompt_image(noise(50, 40), max_side=30) == prompt_image(noise(50, 40), max_side=30)


def test_a_recompressed_image_is_a_jpeg_only_where_that_is_smaller() -> None:
    noisy, flat = (prompt_image(data, media="image/png") for data in (noise(64, 64), saved(Image.new("RGB", (64, 64)))))
    packed = reduced(noisy, max_side=64, quality=50)
    assert (packed.media_type, opened(packed.data).format) == ("image/jpeg", "JPEG")
    assert len(packed.data) < len(noisy.data)
    assert reduced(flat, max_side=64, quality=50) is flat


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be `width` x `height`."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", r"not an image \(0 bytes\)"),
        (b"<svg/>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),  # never handed to Ghostscript
        (saved(halves(), "JPEG")[:400], "broken image: "),
        (noise(64, 64)[:3000], "broken image: "),
        (bomb(10_000, 8_001), f"10000x8001 pixels are more than the {MAX_PIXELS} allowed"),
        (bomb(60_000, 60_000), f"more than the {MAX_PIXELS} pixels allowed"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as caught:
        prompt_image(data)
    assert "\n" not in str(caught.value)
