"""Two hashes of an image file: one for the same bytes, one for the same look."""

import hashlib
import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from viewfold.errors import InvalidInput

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
        with Image.open(io.BytesIO(data)) as image:
            upright = ImageOps.exif_transpose(image)
            grey = upright.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidInput(f"not an image that can be hashed: {error}") from None
    low = (_COSINES @ np.asarray(grey, dtype=np.float64) @ _COSINES.T).ravel()
    bits = np.packbits(low > np.median(low))
    return bits.tobytes().hex()


def _cosines() -> NDArray[np.float64]:
    """The first rows of the cosine transform (DCT-II); factors common to a row of bits do not change the hash."""
    frequency, position = np.arange(_LOW)[:, None], np.arange(_SIDE)[None, :]
    return 2 * np.cos(math.pi * frequency * (2 * position + 1) / (2 * _SIDE))


_COSINES = _cosines()
