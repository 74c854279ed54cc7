"""Decoding: colours, orientation, transparency and depth come out as seen, and every broken file is refused."""

import io
import struct
import zlib
from contextlib import suppress
from functools import partial
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from tiny import encode

from viewfold.errors import InvalidInput
from viewfold.pipeline.decode import MAX_PIXELS, decode_image, storable
from viewfold.pipeline.jpeg import jpeg_pixels, jpeg_shape

RED_LEFT = Image.new("RGB", (32, 32), "blue")
RED_LEFT.paste("red", (0, 0, 16, 32))
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
PHOTO = Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 36, 3), dtype=np.uint8)).resize((360, 240))
"""Edges and flat places in all colours, wider than high."""


def by_pil(picture: Image.Image, size: int) -> NDArray[np.uint8]:
    """The middle of an upright RGB picture, to a whole pixel, scaled by PIL: what decoding has to come to."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(square).transpose(2, 0, 1)


def assert_close(pixels: NDArray[np.uint8], expected: NDArray[np.uint8], *, most: int, mean: float) -> None:
    difference = np.abs(pixels.astype(int) - expected)
    assert (difference.max() <= most, difference.mean() <= mean) == (True, True), (difference.max(), difference.mean())


def with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    """The JPEG with one more segment at its beginning."""
    return jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + jpeg[2:]


def test_a_lossless_image_of_the_right_size_is_kept_bit_for_bit() -> None:
    pixels = decode_image(encode(NOISE, "PNG"), 64)
    np.testing.assert_array_equal(pixels, np.asarray(NOISE).transpose(2, 0, 1))
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG", "GIF", "BMP", "TIFF"])
def test_formats_agree(kind: str) -> None:
    pixels = decode_image(encode(RED_LEFT, kind), 32)
    assert (pixels[0, :, 4].mean() > 240, pixels[2, :, 28].mean() > 240) == (True, True)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    """A JPEG is turned after the resize and PIL's other formats before it, which rounds in another order."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Orientation] = "maker", orientation
    data = encode(PHOTO, kind, exif=exif)
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert_close(decode_image(data, 64), by_pil(turned, 64), most=10, mean=0.3)


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize(("entries", "degrees"), [([(0x0112, 6)], 270), ([(0x010F, 9), (0x0112, 6)], 270), ([], 0)])
def test_orientation_is_found_in_either_byte_order(
    order: Literal["little", "big"], entries: list[tuple[int, int]], degrees: int
) -> None:
    def number(value: int, size: int) -> bytes:
        return value.to_bytes(size, order)

    directory = b"".join(number(tag, 2) + number(3, 2) + number(1, 4) + number(v, 2) + bytes(2) for tag, v in entries)
    tiff = (b"II" if order == "little" else b"MM") + number(42, 2) + number(8, 4) + number(len(entries), 2) + directory
    whole = encode(RED_LEFT, "JPEG", quality=95)
    upright = np.rot90(decode_image(whole, 32), degrees // 90, axes=(1, 2))
    np.testing.assert_array_equal(decode_image(with_segment(whole, 0xE1, b"Exif\0\0" + tiff), 32), upright)


@pytest.mark.parametrize("xmp", [b'<x tiff:Orientation="3"/>', b"<tiff:Orientation>3</tiff:Orientation>"])
def test_orientation_is_read_from_xmp_where_exif_is_silent(xmp: bytes) -> None:
    whole = encode(RED_LEFT, "JPEG", quality=95)
    data = with_segment(whole, 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)
    np.testing.assert_array_equal(decode_image(data, 32), decode_image(whole, 32)[:, ::-1, ::-1])


@pytest.mark.parametrize("exif", [b"", b"II", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff\x12\x01"])
def test_broken_exif_leaves_a_jpeg_as_it_is(exif: bytes) -> None:
    whole = encode(RED_LEFT, "JPEG")
    data = with_segment(whole, 0xE1, b"Exif\0\0" + exif)
    np.testing.assert_array_equal(decode_image(data, 32), decode_image(whole, 32))


@pytest.mark.parametrize("shape", [(200, 300), (301, 200), (64, 90), (20, 20), (1000, 700)])
@pytest.mark.parametrize("size", [16, 64, 224])
def test_the_resize_is_that_of_pil(shape: tuple[int, int], size: int) -> None:
    picture = PHOTO.resize(shape[::-1])
    assert_close(decode_image(encode(picture, "PNG"), size), by_pil(picture, size), most=2, mean=0.02)


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"keep_rgb": True}, {"subsampling": 0}, {"subsampling": 1}]
)
@pytest.mark.parametrize("size", [17, 64, 130, 224])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_has_the_pixels_that_pil_gives_it(mode: str, size: int, options: dict[str, Any]) -> None:
    """At every scale of decoding: PIL's draft chooses the same one for a resize to half of what it decodes."""
    data = encode(PHOTO.resize((419, 333)).convert(mode), "JPEG", quality=90, **options)
    picture = Image.open(io.BytesIO(data))
    picture.draft("RGB", (2 * size, 2 * size))
    assert_close(decode_image(data, size), by_pil(picture.convert("RGB"), size), most=2, mean=0.02)


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


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_the_end_of_an_embedded_thumbnail_does_not_hide_a_cut(mode: str) -> None:
    thumbnail = encode(RED_LEFT, "JPEG")
    whole = encode(NOISE.convert(mode), "JPEG")
    with_comment = with_segment(whole, 0xFE, thumbnail)
    assert decode_image(with_comment, 64).shape == (3, 64, 64)
    cut = with_comment[: -len(whole) // 2]
    with pytest.raises(InvalidInput, match=r"^the JPEG is cut short"):
        decode_image(cut + bytes(len(with_comment) - len(cut)), 64)


@pytest.mark.parametrize("size", [8, 64])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_damaged_in_the_middle_is_refused(progressive: bool, size: int) -> None:
    """A cut that the end marker was put behind again, bytes lost, bytes zeroed: none leaves a gap in the file."""
    whole = encode(PHOTO, "JPEG", quality=90, progressive=progressive)
    middle = len(whole) // 2
    for damaged in (
        whole[:middle] + b"\xff\xd9",
        whole[:middle] + whole[middle + 300 :],
        whole[:middle] + bytes(300) + whole[middle + 300 :],
    ):
        with pytest.raises(InvalidInput, match="broken image"):
            decode_image(damaged, size)
        with pytest.raises(InvalidInput, match="broken image"):
            storable(damaged)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_the_damage_it_is_pixels_or_a_reason(data: st.DataObject) -> None:
    whole = bytearray(
        data.draw(st.sampled_from([encode(PHOTO.resize((48, 32)), kind) for kind in ("JPEG", "PNG", "WEBP")]))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with suppress(InvalidInput):
        assert decode_image(bytes(whole), 16).shape == (3, 16, 16)


def test_rare_samplings_of_colour_are_left_to_pil() -> None:
    whole = bytearray(encode(PHOTO.resize((64, 64)), "JPEG", subsampling=0))
    frame = whole.index(b"\xff\xc0")
    whole[frame + 11 : frame + 20 : 3] = bytes([0x11, 0x22, 0x22])  # colour finer than brightness
    assert jpeg_shape(bytes(whole)) is None
    assert decode_image(bytes(whole), 32).shape == (3, 32, 32)


@pytest.mark.parametrize(("least", "part"), [(300, 1), (150, 2), (151, 1), (80, 2), (75, 4), (37, 8), (1, 8)])
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_is_large_enough(least: int, part: int) -> None:
    data = encode(PHOTO.resize((401, 300)), "JPEG")
    assert jpeg_pixels(data, (300, 401), least).shape == (-(-300 // part), -(-401 // part), 3)


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
    jpeg = bytearray(encode(NOISE, "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    for read in (partial(decode_image, size=64), storable):
        with pytest.raises(InvalidInput, match=f"^{side}x{side} pixels are more than"):
            read(bytes(jpeg))


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


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_png_with_a_damaged_byte_is_never_shown(data: st.DataObject) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    whole = bytearray(encode(Image.fromarray(pixels), "PNG"))
    place = data.draw(st.integers(8, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(InvalidInput):
        decode_image(bytes(whole), 24)
