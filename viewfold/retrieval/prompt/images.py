"""Image files to what is put into a prompt: upright, RGB, small enough, without metadata, of a type that is true."""

import base64
import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from viewfold.errors import InvalidInput

MediaType = Literal["image/jpeg", "image/png"]

MAX_PIXELS = 80_000_000
"""Larger images are refused before they are decoded: a few kB can claim to be gigabytes."""
QUALITY = 90

# Named, for PIL would hand an EPS to Ghostscript. JPEG opens those with a second picture behind them (MPO) too.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
_READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, OverflowError, struct.error, zlib.error)


@dataclass(frozen=True)
class PromptImage:
    """An encoded image with what a prompt and its budget must know of it."""

    data: bytes
    media_type: MediaType
    width: int
    height: int

    def data_uri(self) -> str:
        """The image in a line of text; no space after the comma, which strict servers refuse."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode()}"


def prompt_image(
    data: bytes, *, max_side: int = 1024, media: MediaType = "image/jpeg", quality: int = QUALITY
) -> PromptImage:
    """The image of a file, turned as its EXIF says, alpha laid on white, its longer side at most `max_side` pixels.

    Always encoded anew, as `media`: what else a file carries (place, device, thumbnail) does not leave the machine.
    Take `image/png` where compression would hurt; `quality` is that of a JPEG.

    Raises:
        InvalidInput: not an image, cut short, damaged, or more than `MAX_PIXELS`. The message is a reason, without
            the image's name.
    """
    return _encoded(_shrunk(_pixels(data), max_side), media, quality)


def reduced(image: PromptImage, *, max_side: int, quality: int | None) -> PromptImage:
    """`image` with its longer side at most `max_side`; with a `quality`, as a JPEG of it if that takes fewer bytes."""
    small = image
    if max(image.width, image.height) > max_side:
        small = prompt_image(image.data, max_side=max_side, media=image.media_type)
    if quality is None:
        return small
    packed = prompt_image(image.data, max_side=max_side, quality=quality)
    return packed if len(packed.data) < len(small.data) else small


def shrunk_size(width: int, height: int, max_side: int) -> tuple[int, int]:
    """Width and height once the longer one is at most `max_side`, proportions kept to the pixel."""
    longer = max(width, height)
    if longer <= max_side:
        return width, height
    return max(1, round(width * max_side / longer)), max(1, round(height * max_side / longer))


def _pixels(data: bytes) -> Image.Image:
    """The first picture of the file, upright, RGB."""
    with _opened(data) as image:
        if image.width * image.height > MAX_PIXELS:
            raise InvalidInput(f"{image.width}x{image.height} pixels are more than the {MAX_PIXELS} allowed")
        return _rgb(ImageOps.exif_transpose(image))


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The image, not decoded yet; whatever PIL raises until the block ends becomes `InvalidInput`."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            yield image
    except InvalidInput:
        raise
    except UnidentifiedImageError:
        raise InvalidInput(f"not an image ({len(data)} bytes)") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InvalidInput(f"more than the {MAX_PIXELS} pixels allowed") from None
    except _READ_ERRORS as error:
        raise InvalidInput(f"broken image: {' '.join(str(error).split())}") from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16-bit greys: PIL would cut them off at 255 and make them all white
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _shrunk(image: Image.Image, max_side: int) -> Image.Image:
    size = shrunk_size(image.width, image.height, max_side)
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def _encoded(image: Image.Image, media: MediaType, quality: int) -> PromptImage:
    buffer = io.BytesIO()
    if media == "image/jpeg":
        # Colour at full resolution: at half of it the small coloured signs that tell classes apart bleed.
        image.save(buffer, "JPEG", quality=quality, subsampling=0, exif=b"", icc_profile=None, comment=b"")
    else:
        # A fresh image has no text chunks, time or profile for PIL to write out again.
        clean = Image.new("RGB", image.size)
        clean.paste(image)
        clean.save(buffer, "PNG")
    return PromptImage(buffer.getvalue(), media, image.width, image.height)
