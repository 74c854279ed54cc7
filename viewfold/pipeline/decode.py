"""Bytes of a stored image to pixels, with every way in which an image file can be bad turned into one error.

JPEGs are decoded in `jpeg.py`, everything else by PIL; both are resized here, by torch, whose antialiased bicubic is
PIL's to within one level and takes a third of its time. `python -m benchmarks.decode` measures the choices.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from viewfold.errors import InvalidInput
from viewfold.pipeline.jpeg import CUT_SHORT, START_OF_SCAN, jpeg_orientation, jpeg_pixels, jpeg_shape, segments

MAX_PIXELS = 80_000_000
"""Larger images are refused before they are decoded, below PIL's own limit: a few kB can claim to be gigabytes."""

EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
"""Formats that shards hold, by PIL's name (MPO: a JPEG with a second picture behind it)."""

# Named, for PIL would hand an EPS to Ghostscript. JPEG opens MPO too.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
# Of images between MAX_PIXELS and PIL's own limit, which are refused here in one line.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
_END_OF_JPEG = b"\xff\xd9"
_READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, OverflowError, struct.error, zlib.error)


def decode_image(data: bytes, size: int) -> NDArray[np.uint8]:
    """RGB pixels `[3, size, size]`: turned as its EXIF orientation says, alpha laid on white, 16-bit greys scaled to 8.

    The middle of the longer side is kept, to a whole pixel, and scaled to `size` (bicubic, antialiased).

    Raises:
        InvalidInput: not an image, cut short, damaged, or more than `MAX_PIXELS`. The message is a reason, without
            the image's name.
    """
    shape = jpeg_shape(data)
    if shape is None:
        with _opened(data) as image:
            return _fitted(np.array(_rgb(_upright(image))), size)
    _check_pixels(*shape)
    # Scaled to twice the size at least: the resize that follows stays as sharp as that of the whole image.
    pixels = _fitted(jpeg_pixels(data, shape, 2 * size), size)
    return _turned(pixels, jpeg_orientation(data))


def storable(data: bytes) -> tuple[str, bytes]:
    """Extension and bytes to store an image under: the bytes given where shards hold the format, else a PNG of it.

    Raises:
        InvalidInput: as `decode_image`.
    """
    if (shape := jpeg_shape(data)) is not None:
        _check_pixels(*shape)
        jpeg_pixels(data, shape, 1)
        return EXTENSIONS["JPEG"], data
    with _opened(data) as image:
        image.load()
        if image.format in EXTENSIONS:
            return EXTENSIONS[image.format], data
        buffer = io.BytesIO()
        upright = _upright(image)
        (upright if upright.mode in {"L", "LA", "RGB", "RGBA"} else _rgb(upright)).save(buffer, "PNG")
        return "png", buffer.getvalue()


def _fitted(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """`[height, width, 3]` to `[3, size, size]`: the square in the middle, scaled."""
    height, width, _ = pixels.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side].transpose(2, 0, 1)
    if side != size:
        scaled = torch.nn.functional.interpolate(
            torch.from_numpy(square)[None], (size, size), mode="bicubic", antialias=True
        )
        square = scaled[0].numpy()
    return np.ascontiguousarray(square)


def _turned(square: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """A square picture `[3, size, size]` as EXIF's orientation says."""
    if orientation == 1:
        return square
    if orientation >= 5:
        square = square.transpose(0, 2, 1)
    down = -1 if orientation in {3, 4, 7, 8} else 1
    right = -1 if orientation in {2, 3, 6, 7} else 1
    return np.ascontiguousarray(square[:, ::down, ::right])


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The image behind `data`, not decoded yet; whatever PIL raises until the block ends becomes `InvalidInput`."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_pixels(image.height, image.width)
            if image.format in {"JPEG", "MPO"} and not _has_end(data):
                raise InvalidInput(CUT_SHORT)
            if image.format == "PNG":
                _check_chunks(data)
            yield image
    except InvalidInput:
        raise
    except UnidentifiedImageError:
        raise InvalidInput(f"not an image ({len(data)} bytes)") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InvalidInput(f"more than the {MAX_PIXELS} pixels allowed") from None
    except _READ_ERRORS as error:
        raise InvalidInput(f"broken image: {' '.join(str(error).split())}") from None


def _check_pixels(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise InvalidInput(f"{width}x{height} pixels are more than the {MAX_PIXELS} allowed")


def _has_end(data: bytes) -> bool:
    """Whether a JPEG's end marker follows its first scan. PIL lets libjpeg fill half an image with grey.

    The segments before the scan are stepped over: an embedded thumbnail has an end marker of its own.
    """
    scans = (segment.end for segment in segments(data) if segment.marker == START_OF_SCAN)
    return data.find(_END_OF_JPEG, next(scans, len(data))) >= 0


def _check_chunks(data: bytes) -> None:
    """Compare every chunk of a PNG with its checksum: PIL does not look at those of the pixels."""
    position, kind = 8, b""
    while kind != b"IEND":
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        end = position + 12 + length
        if end > len(data):
            raise InvalidInput("the PNG is cut short: its end chunk is missing")
        checksum = int.from_bytes(data[end - 4 : end], "big")
        if zlib.crc32(data[position + 4 : end - 4]) != checksum:
            raise InvalidInput(f"broken image: the PNG's chunk at byte {position} does not agree with its checksum")
        position = end


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
