"""Decoding: colours, orientation, transparency and depth come out as seen, and every broken file is refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image
from tiny import encode

from viewfold.errors import InvalidInput
from viewfold.pipeline.decode import MAX_PIXELS, decode_image, storable

RED_LEFT = Image.new("RGB", (32, 32), "blue")
RED_LEFT.paste("red", (0, 0, 16, 32))
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def test_a_lossless_image_of_the_right_size_is_kept_bit_for_bit() -> None:
    pixels = decode_image(encode(NOISE, "PNG"), 64)
    np.testing.assert_array_equal(pixels, np.asarray(NOISE).transpose(2, 0, 1))
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG", "GIF", "BMP", "TIFF"])
def test_formats_agree(kind: str) -> None:
    pixels = decode_image(encode(RED_LEFT, kind), 32)
    assert (pixels[0, :, 4].mean() > 240, pixels[2, :, 28].mean() > 240) == (True, True)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3  # turned by 180 degrees
    turned = RED_LEFT.rotate(180)
    np.testing.assert_allclose(
        decode_image(encode(turned, "JPEG", exif=exif, quality=95), 32).astype(float),
        decode_image(encode(RED_LEFT, "JPEG", quality=95), 32).astype(float),
        atol=8,
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    data = encode(clear.convert(mode), "PNG", **({"transparency": 0} if mode == "P" else {}))
    assert decode_image(data, 16).min() == 255


def test_half_transparent_is_the_mean_with_white() -> None:
    pixels = decode_image(encode(Image.new("RGBA", (8, 8), (0, 0, 0, 128)), "PNG"), 8)
    assert abs(int(pixels[0, 0, 0]) - 127) <= 1


def test_sixteen_bit_greys_are_scaled() -> None:
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16) * 256
    pixels = decode_image(encode(Image.fromarray(ramp), "PNG"), 16)
    np.testing.assert_array_equal(pixels[1], ramp >> 8)


@pytest.mark.parametrize("mode", ["L", "CMYK", "1"])
def test_other_modes_become_rgb(mode: str) -> None:
    kind = "PNG" if mode == "1" else "JPEG"
    assert decode_image(encode(RED_LEFT.convert(mode), kind), 32).shape == (3, 32, 32)


def test_the_middle_of_the_longer_side_is_kept() -> None:
    wide = Image.new("RGB", (96, 32), "white")
    wide.paste("black", (32, 0, 64, 32))
    assert decode_image(encode(wide, "PNG"), 32).max() == 0


def test_a_large_jpeg_is_the_same_by_the_fast_way() -> None:
    wave = np.sin(np.linspace(0, 9, 1024))[:, None, None] * np.ones((1, 1024, 3)) * 100 + 128
    picture = Image.fromarray(wave.astype(np.uint8))
    exact = np.asarray(picture.resize((64, 64), Image.Resampling.BICUBIC)).transpose(2, 0, 1).astype(float)
    np.testing.assert_allclose(decode_image(encode(picture, "JPEG", quality=95), 64).astype(float), exact, atol=4)


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.97])
@pytest.mark.parametrize(("kind", "rest"), [("JPEG", 0), ("JPEG", 1), ("PNG", 0), ("PNG", 1), ("WEBP", 0)])
def test_half_an_image_is_refused(kind: str, rest: int, keep: float) -> None:
    """`rest` 1: the missing half is zeros; WebP has neither checksum nor end mark to tell by."""
    whole = encode(NOISE, kind)
    kept = int(len(whole) * keep)
    data = whole[:kept] + bytes(len(whole) - kept) * rest
    with pytest.raises(InvalidInput):
        decode_image(data, 64)


def test_the_end_of_an_embedded_thumbnail_does_not_hide_a_cut() -> None:
    thumbnail = encode(RED_LEFT, "JPEG")
    comment = b"\xff\xfe" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole = encode(NOISE, "JPEG")
    with_comment = whole[:2] + comment + whole[2:]
    assert decode_image(with_comment, 64).shape == (3, 64, 64)
    cut = with_comment[: -len(whole) // 2]
    with pytest.raises(InvalidInput, match="cut short"):
        decode_image(cut + bytes(len(with_comment) - len(cut)), 64)


def test_bytes_behind_a_jpeg_are_ignored() -> None:
    whole = encode(RED_LEFT, "JPEG")
    np.testing.assert_array_equal(decode_image(whole + b"\xff\xda trailing", 32), decode_image(whole, 32))


@pytest.mark.parametrize("side", [9_000, 30_000])
def test_a_small_file_that_claims_to_be_huge_is_refused(side: int) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    assert side**2 > MAX_PIXELS
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(InvalidInput, match="pixels"):
        decode_image(bomb, 64)


@pytest.mark.parametrize("data", [b"", b"text", b"\xff\xd8\xff\xd9", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode_image(data, 64)


def test_shards_keep_the_bytes_of_formats_they_hold_and_png_of_others() -> None:
    for kind, extension in {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}.items():
        data = encode(NOISE, kind)
        assert storable(data) == (extension, data)
    extension, data = storable(encode(NOISE, "BMP"))
    assert extension == "png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(NOISE))
    with pytest.raises(InvalidInput):
        storable(encode(NOISE, "TIFF")[:500])
