"""Bytes of a stored image to pixels, with every way in which an image file can be bad turned into one error."""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from viewfold.errors import InvalidInput

MAX_PIXELS = 80_000_000
"""Larger images are refused before they are decoded, below PIL's own limit: a few kB can claim to be gigabytes."""

EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
"""Formats that shards hold, by PIL's name (MPO: a JPEG with a second picture behind it)."""

_START_OF_SCAN, _END_OF_JPEG = 0xDA, b"\xff\xd9"
_READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, OverflowError, struct.error, zlib.error)


def decode_image(data: bytes, size: int) -> NDArray[np.uint8]:
    """RGB pixels `[3, size, size]`: turned as its EXIF orientation says, alpha laid on white, 16-bit greys scaled to 8.

    The shorter side is scaled to `size` (bicubic, antialiased) and the middle of the longer side is kept.

    Raises:
        InvalidInput: not an image, cut short, damaged, or more than `MAX_PIXELS`. The message is a reason, without
            the image's name.
    """
    with _opened(data) as image:
        # A JPEG can be decoded at 1/2, 1/4 or 1/8 for a fraction of the time; twice the size keeps the resize sharp.
        image.draft("RGB", (2 * size, 2 * size))
        picture = _rgb(_upright(image))
        if picture.size != (size, size):
            picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
        return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def storable(data: bytes) -> tuple[str, bytes]:
    """Extension and bytes to store an image under: the bytes given where shards hold the format, else a PNG of it.

    Raises:
        InvalidInput: as `decode_image`.
    """
    with _opened(data) as image:
        image.load()
        if image.format in EXTENSIONS:
            return EXTENSIONS[image.format], data
        buffer = io.BytesIO()
        upright = _upright(image)
        (upright if upright.mode in {"L", "LA", "RGB", "RGBA"} else _rgb(upright)).save(buffer, "PNG")
        return "png", buffer.getvalue()


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The image behind `data`, not decoded yet; whatever PIL raises until the block ends becomes `InvalidInput`."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InvalidInput(f"{image.width}x{image.height} pixels are more than the {MAX_PIXELS} allowed")
            if image.format in {"JPEG", "MPO"} and not _has_end(data):
                raise InvalidInput("the JPEG is cut short: its end marker is missing")
            yield image
    except InvalidInput:
        raise
    except UnidentifiedImageError:
        raise InvalidInput(f"not an image ({len(data)} bytes)") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InvalidInput(f"more than the {MAX_PIXELS} pixels allowed") from None
    except _READ_ERRORS as error:
        raise InvalidInput(f"broken image: {' '.join(str(error).split())}") from None


def _has_end(data: bytes) -> bool:
    """Whether a JPEG's end marker follows its first scan. libjpeg fills half an image with grey without a word.

    The segments before the scan are stepped over: an embedded thumbnail has an end marker of its own.
    """
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        position += 1 if marker == 0xFF else 2 + length  # FF FF is padding
        if marker == _START_OF_SCAN:
            break
    return data.find(_END_OF_JPEG, position) >= 0


def _upright(image: Image.Image) -> Image.Image:
    # exif_transpose copies even where there is nothing to turn, which is nearly always.
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    return ImageOps.exif_transpose(image) if turned else image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16-bit greys: PIL would cut them off at 255 and make them all white
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
