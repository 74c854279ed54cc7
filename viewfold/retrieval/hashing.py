"""Two hashes of an image file: one for the same bytes, one for the same look."""

import hashlib
import io
import math
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from viewfold.errors import InvalidInput

# Named, for PIL would hand an EPS to Ghostscript. JPEG opens those with a second picture behind them (MPO) too.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")

_DAMAGED = (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, OverflowError, struct.error, zlib.error)
_SIDE = 32
_LOW = 8


def image_hashes(data: bytes) -> tuple[str, str]:
    """The sha256 of an image file (64 hex digits) and the perceptual hash of what it shows (16 hex digits)."""
    return hashlib.sha256(data).hexdigest(), perceptual_hash(data)


def perceptual_hash(data: bytes) -> str:
    """64 bits, as 16 hex digits, that survive resizing, recompression and small changes of light; compare by Hamming.

    pHash: the image upright, grey, 32 x 32; of its cosine transform the 8 x 8 lowest frequencies, each compared with
    their median, row by row. The bits are those of `imagehash.phash` for an image without an orientation tag.

    Raises:
        InvalidInput: the bytes are not a whole image.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()  # PIL turns a TIFF here, and knows of what stands behind a PNG's pixels from here on
            # exif_transpose copies even where there is nothing to turn, which is nearly always.
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
            upright = ImageOps.exif_transpose(image) if turned else image
            grey = upright.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    except (*_DAMAGED, Image.DecompressionBombError) as error:
        raise InvalidInput(f"not an image that can be hashed: {error}") from None
    low = (_COSINES @ np.asarray(grey, dtype=np.float64) @ _COSINES.T).ravel()
    bits = np.packbits(low > np.median(low))
    return bits.tobytes().hex()


def _cosines() -> NDArray[np.float64]:
    """The first rows of the cosine transform (DCT-II); factors common to a row of bits do not change the hash."""
    frequency, position = np.arange(_LOW)[:, None], np.arange(_SIDE)[None, :]
    return 2 * np.cos(math.pi * frequency * (2 * position + 1) / (2 * _SIDE))


_COSINES = _cosines()
