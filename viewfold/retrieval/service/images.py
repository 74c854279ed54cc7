"""Image files that strangers send: known by their header before anything decodes them."""

import base64
import binascii
import io
import struct
import zlib

from PIL import Image, UnidentifiedImageError

from viewfold.errors import InvalidInput
from viewfold.retrieval.hashing import FORMATS
from viewfold.retrieval.service.parts import check_parts

READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, OverflowError, struct.error, zlib.error, MemoryError)


def check_header(data: bytes, max_pixels: int) -> None:
    """Refuse what is not one of `FORMATS`, what claims more than `max_pixels` and what is in too many parts; nothing is
    decoded. May take a tenth of a second, so the event loop has no time for it.

    Raises:
        InvalidInput: the message is a reason, without the image's name.
    """
    check_parts(data)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
    except UnidentifiedImageError:
        raise InvalidInput(
            f"not an image ({len(data)} bytes); send one of {', '.join(FORMATS)}, an SVG or PDF drawn as one first"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InvalidInput(f"more than the {max_pixels} pixels allowed") from None
    except (*READ_ERRORS, Warning) as error:  # a warning where warnings are errors
        raise InvalidInput(f"broken image: {' '.join(str(error).split())}") from None
    if width * height > max_pixels:
        raise InvalidInput(f"{width}x{height} pixels are more than the {max_pixels} allowed")


def from_text(text: str) -> bytes:
    """The file behind base64 or a data URI.

    Raises:
        InvalidInput: neither, or an address, which is not fetched.
    """
    encoded = text
    if text.startswith("data:"):
        kind, comma, encoded = text.partition(",")
        if not comma or not kind.endswith(";base64"):
            raise InvalidInput("a data URI must be data:image/...;base64,...")
    elif "://" in text[:32]:
        raise InvalidInput("addresses are not fetched; send the image itself, in base64 or as a data URI")
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput("neither base64 nor a data URI") from None
    if not data:
        raise InvalidInput("an empty file")
    return data
