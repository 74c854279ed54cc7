"""JPEGs by libjpeg-turbo: scaled down while they are decoded, and what the decoder only warns of is an error.

simplejpeg is the decoder: of those measured it alone has both, and both decide. Decoders that hide the warnings fill
the missing half of an image with grey and call it read.
"""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from viewfold.errors import InvalidInput

START_OF_SCAN = 0xDA
CUT_SHORT = "the JPEG is cut short: its end marker is missing"

_START, _APP1 = b"\xff\xd8\xff", 0xE1
_ORIENTATION, _EXIF = 0x0112, b"Exif\0\0"
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


class Segment(NamedTuple):
    """One segment before the scan: its marker's second byte, and where its content begins and ends."""

    marker: int
    start: int
    end: int


def jpeg_shape(data: bytes) -> tuple[int, int] | None:
    """Height and width of a JPEG that `jpeg_pixels` takes: grey or three colours.

    None for another format, for CMYK, for the samplings of colour that TurboJPEG has no name for and for a header that
    cannot be read.
    """
    if not data.startswith(_START):
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # KeyError: simplejpeg 1.9 looks up the name of a sampling that has none
        return None
    return (int(height), int(width)) if space in {"YCbCr", "RGB", "Gray"} else None


def jpeg_pixels(data: bytes, shape: tuple[int, int], least: int) -> NDArray[np.uint8]:
    """RGB `[height, width, 3]` as stored, not turned: at 1/8, 1/4 or 1/2 where both sides stay at least `least`.

    Raises:
        InvalidInput: cut short or damaged, as far as libjpeg can tell. The message is a reason.
    """
    part = next((part for part in (8, 4, 2) if min(shape) >= part * least), 1)
    # Rounded up as the decoder rounds: of all its scales (every eighth) these sides choose exactly 1/part.
    height, width = (-(-side // part) for side in shape)
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, min_height=height, min_width=width)
    except ValueError as error:
        raise InvalidInput(
            CUT_SHORT if "Premature end of JPEG file" in str(error) else f"broken image: {error}"
        ) from None
    return pixels


def encode_jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """RGB `[height, width, 3]` as a JPEG of a quality in 1..100, its colours at half the resolution, as cameras do."""
    data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB", "420")
    return data


def jpeg_orientation(data: bytes) -> int:
    """How a JPEG must be turned, 1 to 8 as EXIF counts, from its EXIF or else its XMP; 1 where neither says."""
    xmp = 1
    for segment in segments(data):
        if segment.marker != _APP1:
            continue
        if data.startswith(_EXIF, segment.start):
            orientation = _exif_orientation(data[segment.start + len(_EXIF) : segment.end])
            if 1 <= orientation <= 8:
                return orientation
        elif found := _XMP_ORIENTATION.search(data, segment.start, segment.end):
            xmp = int(found[1])
    return xmp


def segments(data: bytes) -> Iterator[Segment]:
    """The segments of a JPEG up to its first scan, that one included; ends where no segment begins."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # FF FF is padding
            position += 1
            continue
        end = position + 2 + (data[position + 2] << 8 | data[position + 3])
        yield Segment(marker, position + 4, end)
        if marker == START_OF_SCAN:
            return
        position = end


def _exif_orientation(exif: bytes) -> int:
    """The tag in the first directory of a TIFF header; 0 without it. Places behind the end read as 0, so none fails."""
    order: Literal["little", "big"] = "little" if exif.startswith(b"II") else "big"

    def number(start: int, size: int) -> int:
        return int.from_bytes(exif[start : start + size], order)

    first = number(4, 4)
    entries = range(first + 2, first + 2 + 12 * number(first, 2), 12)
    return next((number(entry + 8, 2) for entry in entries if number(entry, 2) == _ORIENTATION), 0)
